"""The whole chain as a user runs it, in the test environment: a tiny random model, no vLLM. It runs once.

The fixture keeps what the default run made; every test reads that, and those that run more leave it as it is.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from projects import end_tracking, open_project, run
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rao_kedro.cli import cli
from rao_kedro.config.run_names import method_of
from rao_kedro.pipelines.runs import METHODS


@dataclass(frozen=True)
class Chain:
    """What the default run made.

    Attributes:
        data: The project's data.
        simpo_models: Checkpoints after a first run that only made SimPO's policy.
        simpo_files: All files of that run, relative to the data.
        shown: What the console showed of the default run.
        left_behind: What the default run wrote into the directory that it was started in.
        leaderboard: Its leaderboard.
        report: Its report.
    """

    data: Path
    simpo_models: set[str]
    simpo_files: set[str]
    shown: str
    left_behind: list[Path]
    leaderboard: pd.DataFrame
    report: str

    @property
    def project(self):
        return self.data.parents[1]

    def read(self, name):
        path = self.data / name
        return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    with open_project(tmp_path_factory.mktemp("chain")) as project, pytest.MonkeyPatch.context() as patched:
        data = project / "data/test"
        run(project, to_outputs=["simpo.policy"])
        models = {path.parent.name for path in (data / "06_models").glob("*/config.json")}
        files = {str(path.relative_to(data)) for path in data.rglob("*") if path.is_file()}
        end_tracking()
        patched.chdir(project / "src")  # as `kedro run` from a folder of the project
        result = CliRunner().invoke(cli, ["run", "--env", "test"])
        assert result.exit_code == 0, result.output
        left_behind = [*Path.cwd().iterdir()]
        patched.chdir(project)
        leaderboard = pd.read_csv(data / "08_reporting/leaderboard.csv")
        report = (data / "08_reporting/report.html").read_text()
        yield Chain(data, models, files, result.output, left_behind, leaderboard, report)


def test_a_policy_by_its_name_is_made_with_what_it_needs_and_nothing_else(chain):
    assert chain.simpo_models == {"base_model", "sft", "reward_model", "simpo"}
    assert "05_model_input/reference_logprobs.parquet" not in chain.simpo_files
    assert "sample_reference" not in chain.shown  # neither rao with log_z0: auto nor dpo needs it
    assert "08_reporting/leaderboard.csv" not in chain.simpo_files


def test_a_method_without_a_reference_has_log_ratios_in_evaluations_only(chain):
    log = chain.read("07_model_output/simpo_training_log.csv")
    assert "log_ratio_chosen" not in log and log["eval_log_ratio_chosen"].notna().any()


def test_a_run_shows_a_line_per_node_and_a_summary(chain):
    lines = chain.shown.splitlines()
    assert len(lines) < 60 and not [line for line in lines if "Loading data" in line or "Saving data" in line]
    assert [line for line in lines if re.match(r"24/26 compare_methods +\d+\.\d s  leaderboard \(3 rows\)", line)]
    assert "report: data/test/08_reporting/report.html" in lines and "models: data/test/06_models" in lines
    assert [line for line in lines if re.match(r"rao  +0\.\d{3}  +[+-]0\.\d{3} \[", line)]
    assert [line for line in lines if re.match(r"quarantined rows: \d+ \(equal_ratings", line)]


def test_what_a_run_does_not_show_stands_in_its_log(chain):
    logged = "".join(path.read_text() for path in (chain.project / "logs").glob("run_*.log"))
    assert "Saving data to leaderboard" in logged and "step 1/2  loss " in logged and "Loading weights" in logged


def test_a_run_from_a_folder_of_the_project_writes_nothing_there(chain):
    assert chain.left_behind == []


def test_the_leaderboard_compares_all_policies_on_all_prompts(chain):
    leaderboard = chain.leaderboard.set_index("method")
    columns = "n rule_score rule_score_low rule_score_high reward win_rate_vs_sft mean_length kl_to_reference"
    assert set(columns.split()) <= set(leaderboard) and set(leaderboard.index) == {"sft", "rao", "dpo"}
    assert (leaderboard["n"] == 20).all() and (leaderboard["n_judged"] == 20).all()
    assert leaderboard.loc["sft", "kl_to_reference"] == 0 and leaderboard.loc["sft", "win_rate_vs_sft"] == 0.5
    assert (leaderboard["judge"] == "rule_score").all() and (leaderboard["seeds"] == 1).all()
    cut = {
        method: chain.read(f"07_model_output/{method}_generations.parquet")["finish_reason"] for method in METHODS[:1]
    }
    assert leaderboard.loc["rao", "cut"] == pytest.approx((cut["rao"] == "length").mean())


def test_the_report_says_how_rao_compares(chain):
    assert "Alignment report" in chain.report and "rao is" in chain.report


@pytest.mark.parametrize("method", ["simpo", "sft", "rao", "dpo"])
def test_plain_transformers_opens_every_policy(chain, method):
    model = AutoModelForCausalLM.from_pretrained(chain.data / "06_models" / method)
    tokenizer = AutoTokenizer.from_pretrained(chain.data / "06_models" / method)
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)


def test_responses_end_with_the_end_of_turn_token_where_they_are_finished(chain):
    annotated = chain.read("05_model_input/reward_annotated.parquet")
    end = AutoTokenizer.from_pretrained(chain.data / "06_models/sft").eos_token_id
    finished = [flag for flags in annotated["finished"] for flag in flags]
    assert [ids[-1] == end for group in annotated["response_ids"] for ids in group] == finished
    assert set(finished) == {True, False}


def test_what_is_reported_of_likelihoods_are_the_test_groups(chain):
    annotated = chain.read("05_model_input/reward_annotated.parquet")
    reported = chain.read("07_model_output/rao_held_out_logps.parquet")
    assert set(reported["group_id"]) == set(annotated.loc[annotated["split"] == "test", "group_id"])


def test_the_training_log_has_what_is_plotted(chain):
    log = chain.read("07_model_output/rao_training_log.csv")
    columns = "loss rewards_chosen log_ratio_chosen logps_chosen margin accuracy grad_norm learning_rate"
    assert {*columns.split(), "tokens_per_second"} <= set(log)
    assert log[["loss", "grad_norm", "learning_rate"]].dropna().shape == (2, 3)


def test_mlflow_has_every_parameter_by_its_name_the_scores_and_the_reports(chain):
    client = mlflow.MlflowClient(f"sqlite:///{chain.project}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'rao_kedro'")
    runs = client.search_runs([experiment.experiment_id], "params.`alignment.rao.parameters.beta` = '0.05'")
    tracked = next(run for run in runs if "rao/rule_score" in run.data.metrics and "simpo/n" not in run.data.metrics)
    assert tracked.data.params["evaluation.generation.sampling.max_tokens"] == "24"
    assert not [name for name in tracked.data.params if name in ("evaluation.generation", "alignment.rao")]
    rao = chain.leaderboard.set_index("method").loc["rao"]
    assert tracked.data.metrics["rao/rule_score"] == pytest.approx(rao["rule_score"])
    assert tracked.data.metrics["rao/n"] == 20
    artefacts = {file.path for file in client.list_artifacts(tracked.info.run_id)}
    assert {"leaderboard.csv", "report.html", "reward_report.csv"} <= artefacts
    kept = chain.project / "mlruns" / tracked.info.run_id / "artifacts"
    assert (kept / "report.html").read_text() == chain.report
    pd.testing.assert_frame_equal(pd.read_csv(kept / "leaderboard.csv"), chain.leaderboard)


def test_every_method_trains_without_the_others_and_touches_none_that_is_not_named(chain):
    trained = chain.data / "06_models"
    before = (trained / "rao/model.safetensors").stat().st_mtime_ns
    alone = ["dro", "qrpo", "ppo", "rloo"]  # of the kinds that need something of their own
    for methods in (*([method] for method in alone), [*({*METHODS} - {"rao", *alone})]):
        for method in methods:
            shutil.rmtree(trained / method, ignore_errors=True)
        run(chain.project, "alignment", namespaces=methods, params={"alignment": {"rloo": {"rounds": {"n": 1}}}})
        for method in methods:
            AutoModelForCausalLM.from_pretrained(trained / method)
    assert (trained / "rao/model.safetensors").stat().st_mtime_ns == before


def test_the_likelihood_study_has_a_row_for_each_of_its_runs(chain):
    run(chain.project, "likelihood_study")
    study = chain.read("08_reporting/likelihood_study.csv")
    assert {"rao", "dpo", "rao_margin_minus20"} <= set(study["run"]) and (study["n"] > 0).all()


def test_the_comparison_takes_the_methods_of_the_parameter_each_with_all_of_its_seeds(chain):
    before = (chain.data / "06_models/rao/model.safetensors").stat().st_mtime_ns
    seeds = {"alignment": {"rao": {"seeds": "0 1"}}}
    run(chain.project, "alignment", namespaces=["rao_seed_1"], params=seeds)
    run(chain.project, "evaluation", params={"methods": "simpo rao", **seeds})
    leaderboard = chain.read("08_reporting/leaderboard.csv")
    assert {method_of(run) for run in leaderboard["method"]} == {"sft", "rao", "simpo"}
    assert (chain.data / "06_models/rao/model.safetensors").stat().st_mtime_ns == before
    runs = ("rao", "rao_seed_1")
    first, second = (load_file(chain.data / f"06_models/{run}/model.safetensors") for run in runs)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    answers = [chain.read(f"07_model_output/{run}_scored_generations.parquet") for run in runs]
    assert list(answers[0]["prompt_id"]) == list(answers[1]["prompt_id"])
    assert list(answers[0]["logp"]) != list(answers[1]["logp"])
    assert "rao_seed_1" in (chain.data / "08_reporting/training_dynamics.json").read_text()
    assert "rao_seed_1" in (chain.data / "08_reporting/report.html").read_text()


def test_rewards_of_the_reference_are_made_once_for_every_method_that_reads_them(chain):
    """RAO estimates log_z0 from the table that was made for qrpo, and the report has the value that it trained with."""
    estimated = {"alignment": {"rao": {"parameters": {"log_z0": "estimated"}}}}
    run(chain.project, "alignment", namespaces=["qrpo"])
    table = chain.data / "05_model_input/reference_rewards.parquet"
    before, made = table.stat().st_mtime_ns, pd.read_parquet(table)
    run(chain.project, "alignment", namespaces=["rao"], params=estimated)
    assert table.stat().st_mtime_ns == before
    annotated = chain.read("05_model_input/reward_annotated.parquet")
    assert list(made["group_id"]) == list(annotated.loc[annotated["split"] != "test", "group_id"])
    assert (made["rewards"].map(len) == 8).all()
    run(chain.project, "alignment", node_names=["report_log_z0"], params=estimated)
    report = chain.read("08_reporting/log_z0_report.csv").set_index("log_z0")
    log = chain.read("07_model_output/rao_training_log.csv")
    assert log["log_z"].dropna().iloc[0] == pytest.approx(report.loc["estimated", "value"], abs=1e-4)
    n_train = (annotated["split"] == "train").sum()
    assert report.loc["estimated", "n_prompts"] == n_train and report.loc["paper", "value"] == 50
