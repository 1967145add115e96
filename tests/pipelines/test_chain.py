"""The whole chain as a user runs it, in the test environment: a tiny random model, no vLLM."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from assets import ASSETS
from click.testing import CliRunner
from kedro.framework.project import configure_project
from kedro.framework.startup import bootstrap_project
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rao_kedro.cli import cli
from rao_kedro.config.runs import method_of
from rao_kedro.errors import DataError, ModelError, ParameterError
from rao_kedro.framework.session import StudySession
from rao_kedro.identity import path_hash
from rao_kedro.pipelines.runs import METHODS

ROOT = Path(__file__).parents[2]
ULTRAFEEDBACK, REPORTED = ASSETS / "ultrafeedback", ASSETS / "reported_inputs"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of the project's configuration, so that nothing is written into the real data folder."""
    for name in ("conf", "pyproject.toml"):
        (shutil.copytree if name == "conf" else shutil.copy)(ROOT / name, tmp_path / name)
    (tmp_path / "data/01_raw").mkdir(parents=True)
    shutil.copy(ROOT / "data/01_raw/prompts.jsonl", tmp_path / "data/01_raw")
    (tmp_path / "src").mkdir()
    monkeypatch.chdir(tmp_path)
    bootstrap_project(tmp_path)
    configure_project("rao_kedro")
    yield tmp_path
    while mlflow.active_run():  # kedro-mlflow starts its run once more for the node and ends it once
        mlflow.end_run()


def run(project, *pipelines, env="test", **options):
    runtime = options.pop("params", None)
    with StudySession.create(project, env=env, runtime_params=runtime) as session:
        session.run(pipeline_names=[*pipelines], **options)


def test_one_command_makes_aligned_models_a_leaderboard_and_a_report(project, monkeypatch):
    # A policy by its name, from nothing: what it needs and nothing else.
    data = project / "data/test"
    run(project, to_outputs=["simpo.policy"])
    AutoModelForCausalLM.from_pretrained(data / "06_models/simpo")
    assert {path.name for path in (data / "06_models").iterdir() if path.name[0] != "."} == {
        "base_model",
        "sft",
        "reward_model",
        "simpo",
    }
    assert not (data / "05_model_input/reference_logprobs.parquet").exists()
    assert not (data / "08_reporting/leaderboard.csv").exists()
    log = pd.read_csv(data / "07_model_output/simpo_training_log.csv")
    assert "log_ratio_chosen" not in log and log["eval_log_ratio_chosen"].notna().any()

    monkeypatch.chdir(project / "src")  # as `kedro run` from a folder of the project
    # It shows a line per node, and a summary.
    shown = CliRunner().invoke(cli, ["run", "--env", "test"])
    assert shown.exit_code == 0, shown.output
    lines = shown.output.splitlines()
    assert len(lines) < 60 and not [line for line in lines if "Loading data" in line or "Saving data" in line]
    assert [line for line in lines if re.match(r"23/25 compare_methods +\d+\.\d s  leaderboard \(3 rows\)", line)]
    assert "report: data/test/08_reporting/report.html" in lines and "models: data/test/06_models" in lines
    assert [line for line in lines if re.match(r"rao  +0\.\d{3}  +[+-]0\.\d{3} \[", line)]
    assert [line for line in lines if re.match(r"quarantined rows: \d+ \(equal_ratings", line)]
    (log,) = (project / "logs").glob("run_*.log")
    logged = log.read_text()
    assert "Saving data to leaderboard" in logged and "step 1/2  loss " in logged and "Loading weights" in logged
    assert [*Path.cwd().iterdir()] == []
    monkeypatch.chdir(project)
    leaderboard = pd.read_csv(data / "08_reporting/leaderboard.csv")
    columns = "method n rule_score rule_score_low rule_score_high reward win_rate_vs_sft mean_length kl_to_reference"
    assert set(columns.split()) <= set(leaderboard)
    assert set(leaderboard["method"]) == {"sft", "rao", "dpo"} and (leaderboard["n"] == 20).all()
    assert leaderboard.set_index("method").loc["sft", "kl_to_reference"] == 0
    assert (leaderboard["judge"] == "rule_score").all() and (leaderboard["n_judged"] == 20).all()
    assert leaderboard["cut"].between(0, 1).all() and (leaderboard["seeds"] == 1).all()
    report = (data / "08_reporting/report.html").read_text()
    assert "Alignment report" in report and "rao is" in report
    for method in ("sft", "rao", "dpo"):
        AutoModelForCausalLM.from_pretrained(data / "06_models" / method)
        AutoTokenizer.from_pretrained(data / "06_models" / method)
    annotated = pd.read_parquet(data / "05_model_input/reward_annotated.parquet")
    assert len(annotated) and annotated["reward_std"].iloc[0] > 0
    # Responses that hit the token limit have no end-of-turn token, the others have.
    end = AutoTokenizer.from_pretrained(data / "06_models/sft").eos_token_id
    finished = [flag for flags in annotated["finished"] for flag in flags]
    assert [ids[-1] == end for group in annotated["response_ids"] for ids in group] == finished
    assert not all(finished)
    reported = pd.read_parquet(data / "07_model_output/rao_held_out_logps.parquet")
    assert set(reported["group_id"]) == set(annotated.loc[annotated["split"] == "test", "group_id"])
    log = pd.read_csv(data / "07_model_output/rao_training_log.csv")
    wanted = (
        "loss rewards_chosen log_ratio_chosen logps_chosen margin accuracy grad_norm learning_rate tokens_per_second"
    )
    assert set(wanted.split()) <= set(log)

    # MLflow has every parameter by its name, the scores, and the reports, in the project.
    client = mlflow.MlflowClient(f"sqlite:///{project}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'rao_kedro'")
    (tracked,) = client.search_runs([experiment.experiment_id], "params.`alignment.rao.parameters.beta` = '0.05'")
    assert tracked.data.params["evaluation.generation.sampling.max_tokens"] == "24"
    assert not [name for name in tracked.data.params if name in ("evaluation.generation", "alignment.rao")]
    rao = leaderboard.set_index("method").loc["rao"]
    assert tracked.data.metrics["rao/rule_score"] == pytest.approx(rao["rule_score"])
    assert tracked.data.metrics["rao/n"] == 20
    artefacts = {file.path for file in client.list_artifacts(tracked.info.run_id)}
    assert {"leaderboard.csv", "report.html", "reward_report.csv"} <= artefacts
    kept = project / "mlruns" / tracked.info.run_id / "artifacts"
    assert (kept / "report.html").read_text() == report
    pd.testing.assert_frame_equal(pd.read_csv(kept / "leaderboard.csv"), leaderboard)

    # One namespace runs alone; every method of the study does.
    before = (data / "06_models/rao/model.safetensors").stat().st_mtime_ns
    for method in ("dpo", "simpo"):
        shutil.rmtree(data / "06_models" / method)
    for method in METHODS[1:]:
        assert not (data / "06_models" / method / "model.safetensors").exists()
        run(project, "alignment", namespaces=[method])
        AutoModelForCausalLM.from_pretrained(data / "06_models" / method)
    assert (data / "06_models/rao/model.safetensors").stat().st_mtime_ns == before

    # The likelihood study has a row for each of its runs.
    run(project, "likelihood_study")
    study = pd.read_csv(data / "08_reporting/likelihood_study.csv")
    assert {"rao", "dpo", "rao_margin_minus20"} <= set(study["run"]) and (study["n"] > 0).all()

    # The comparison takes the methods that the parameter names, each with all of its seeds.
    seeds = {"alignment": {"rao": {"seeds": "0 1"}}}
    run(project, "alignment", namespaces=["rao_seed_1"], params=seeds)
    run(project, "evaluation", params={"methods": "simpo rao", **seeds})
    leaderboard = pd.read_csv(data / "08_reporting/leaderboard.csv")
    assert {method_of(run) for run in leaderboard["method"]} == {"sft", "rao", "simpo"}
    assert (data / "06_models/rao/model.safetensors").stat().st_mtime_ns == before
    runs = ("rao", "rao_seed_1")
    first, second = (load_file(data / f"06_models/{run}/model.safetensors") for run in runs)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    answers = [pd.read_parquet(data / f"07_model_output/{run}_scored_generations.parquet") for run in runs]
    assert list(answers[0]["prompt_id"]) == list(answers[1]["prompt_id"])
    assert list(answers[0]["logp"]) != list(answers[1]["logp"])
    assert "rao_seed_1" in (data / "08_reporting/training_dynamics.json").read_text()
    assert "rao_seed_1" in (data / "08_reporting/report.html").read_text()


def test_an_unknown_method_is_named_with_the_known_ones(project):
    with pytest.raises(ParameterError, match=r"unknown roa; choose from rao dpo ipo"):
        run(project, params={"methods": "roa"})


def test_a_pipeline_before_its_inputs_says_what_is_missing_and_what_makes_it_and_no_more(project):
    """All that `kedro` shows at its start included."""
    command = [sys.executable, "-m", "kedro", "run", "--env", "test", "--pipelines", "alignment"]
    environment = os.environ | {"COLUMNS": "80", "PYTHONPATH": str(ROOT / "src")}
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    lines = ended.stdout.splitlines()
    assert ended.returncode == 1 and sum(len(line) // 80 + 1 for line in lines) < 12, ended.stdout
    wanted = "error: reward_annotated@path does not exist: run `kedro run --pipelines reward_modeling` first"
    assert lines[0].startswith(wanted), ended.stdout
    assert [line for line in lines if "--verbose" in line]


def test_a_model_that_cannot_be_used_is_refused_before_anything_is_made_with_it(project, tiny_checkpoint):
    AutoModelForCausalLM.from_pretrained(tiny_checkpoint).save_pretrained(project / "model", max_shard_size="50KB")
    AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(project / "model")
    (project / "model/model-00002-of-00003.safetensors").unlink()
    model = {"source": "checkpoint", "name": str(project / "model")}
    with pytest.raises(ModelError, match=r"lacks 1 of 3 weight files .*model-00002-of-00003\.safetensors"):
        run(project, "data_engineering", params={"model": model})
    assert not [path for path in (project / "data/test").rglob("*.parquet")]


def test_rewards_are_studied_benchmarked_and_chosen_by_name(project):
    run(project, "data_engineering")
    run(project, "supervised_finetuning")
    parts = [{"name": "bradley_terry"}, {"name": "rules", "weight": 2.0}]
    chosen = {
        "reward": {"name": "combined", "parameters": {"parts": parts}},
        "clip": 5.0,
        "normalisation": "standardise",
    }
    run(project, "reward_modeling", params={"reward_modeling": chosen})
    data = project / "data/test"
    annotated = pd.read_parquet(data / "05_model_input/reward_annotated.parquet")
    assert annotated["reward_model"][0].startswith("weighted: 1 (") and "2 (rules " in annotated["reward_model"][0]
    assert [made["name"] for made in json.loads(annotated["reward_transforms"][0])] == ["clip", "standardise"]
    assert pd.read_csv(data / "08_reporting/reward_target_grid.csv")["chosen_target_is_up"].between(0, 1).all()

    # The paper's Table 1.
    run(project, "reward_model_study")
    table = pd.read_csv(data / "08_reporting/reward_model_study.csv")
    forms = [form for form in ("base", "sft", "dpo_implicit") for _ in ("small", "large")]
    assert list(table["form"]) == ["longer response", *forms]
    assert (table["n"] == annotated["split"].eq("test").sum()).all() and table["accuracy"].between(0, 1).all()

    # A reward benchmark from a file.
    rows = [{"id": i, "prompt": f"p{i}", "chosen": "yes", "rejected": "no", "subset": "hep-go"} for i in range(3)]
    (project / "benchmark.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"id": 4}]))
    sources = {"rewardbench": {"path": str(project / "benchmark.jsonl")}}
    run(project, "reward_benchmarks", params={"reward_benchmarks": {"sources": sources}})
    scores = pd.read_csv(data / "08_reporting/reward_benchmarks.csv").set_index(["section", "subset"])
    assert scores.loc[("Reasoning", "hep-go"), "n"] == 3
    assert len(pd.read_parquet(data / "07_model_output/reward_benchmark_quarantine.parquet")) == 1


def test_a_reward_that_does_not_exist_is_refused_before_anything_runs(project):
    run(project, "data_engineering")
    run(project, "supervised_finetuning")
    with pytest.raises(ParameterError, match="unknown reward 'magic': choose one of bradley_terry"):
        run(project, "reward_modeling", params={"reward_modeling": {"reward": {"name": "magic"}}})
    assert not (project / "data/test/06_models/reward_model").exists()


def test_the_same_chain_runs_on_real_ultrafeedback_rows(project):
    params = {
        "data": {
            "source": "preferences",
            "max_prompt_tokens": 600,
            "max_response_tokens": 800,
            "preferences": {
                split: {"path": str(ULTRAFEEDBACK / f"{name}.jsonl.gz"), "max_rows": rows}
                for split, name, rows in (("train", "train", 60), ("test", "eval", 30))
            },
        },
        "evaluation": {"generation": {"max_model_len": 2048}},
    }
    params["supervised_finetuning"] = {"max_tokens_per_batch": 2400}
    params["reward_modeling"] = {"reward": {"name": "ratings"}, "training": {"max_tokens_per_batch": 2400}}
    params["alignment"] = {m: {"training": {"max_tokens_per_batch": 2400}} for m in ("rao", "dpo")}
    params["reference"] = {"max_tokens_per_batch": 2400}
    params["evaluation"]["max_tokens_per_batch"] = 2400
    run(project, params=params)
    quarantined = pd.read_parquet(project / "data/test/03_primary/quarantined_rows.parquet")
    groups = pd.read_parquet(project / "data/test/05_model_input/tokenized_groups.parquet")
    assert len(groups) + len(quarantined) == 90 and "equal_ratings" in set(quarantined["reason"])
    assert len(pd.read_csv(project / "data/test/08_reporting/leaderboard.csv")) == 3
    annotated = pd.read_parquet(project / "data/test/05_model_input/reward_annotated.parquet")
    assert set(annotated["reward_model"]) == {"ratings"}


def test_a_folder_of_all_reported_inputs_ends_no_run_and_loses_no_row(project):
    shutil.copytree(REPORTED, project / "reported", ignore=shutil.ignore_patterns("ok_*", "*.md"))
    paths = {"train": {"path": "reported"}, "test": {"path": str(REPORTED / "ok_test.jsonl")}}
    run(project, "data_engineering", params={"data": {"source": "preferences", "preferences": paths}})
    primary = project / "data/test/03_primary"
    groups, quarantined = (pd.read_parquet(primary / f"{n}.parquet") for n in ("preference_groups", "quarantined_rows"))
    sources = set(" + ".join([*groups["source"], *quarantined["source"]]).split(" + "))
    rows = {file.name: 8 for file in (project / "reported").iterdir()}
    rows |= {"07_long_field.csv.gz": 9, "12_one_response_per_row.jsonl": 16, "13_unpaired.jsonl": 16}
    assert sources >= {f"{name}:{i + 1}" for name, n in rows.items() for i in range(n)}
    assert {"tool_call", "bad_dialogue", "empty_response", "invalid_text", "equal_ratings", "response_too_long"} <= set(
        quarantined["reason"]
    )
    tokenized = pd.read_parquet(project / "data/test/05_model_input/tokenized_groups.parquet")
    assert set(tokenized["responses"].map(len)) == {2, 4} and (tokenized["split"] == "train").sum() > 40


def test_where_no_row_is_left_the_quarantine_and_the_report_say_why(project):
    bad, good = ({"prompt": "Hi?", "chosen": "a", "rejected": text} for text in ("\u200b", "b"))
    for name, row in (("train", bad), ("test", good), ("long", {**good, "prompt": "Hi? " * 300})):
        (project / f"{name}.jsonl").write_text(json.dumps(row))

    def data(train, test):
        return {"data": {"source": "preferences", "preferences": {"train": {"path": train}, "test": {"path": test}}}}

    def saved():
        table = pd.read_parquet(project / "data/test/03_primary/quarantined_rows.parquet")
        report = pd.read_csv(project / "data/test/08_reporting/data_report.csv").set_index("section").loc["quarantined"]
        return list(table["reason"]), dict(zip(report["metric"], report["value"], strict=True))

    with pytest.raises(
        DataError, match=r"no prompt group is left for train; .*empty_response 1 times, .*train\.jsonl:1"
    ):
        run(project, "data_engineering", params=data("train.jsonl", "test.jsonl"))
    assert saved() == (["empty_response"], {"empty_response": 1, "all": 1})
    while mlflow.active_run():  # parameters of a run cannot change
        mlflow.end_run()
    mixed = [bad, {**good, "prompt": "Yo?"}, {**good, "prompt": "Yo? " * 300}]
    (project / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mixed))
    with pytest.raises(DataError, match=r"left for test after tokenising; .*prompt_too_long 2 times, .*mixed\.jsonl:3"):
        run(project, "data_engineering", params=data("mixed.jsonl", "long.jsonl"))
    assert saved() == (
        ["empty_response", "prompt_too_long", "prompt_too_long"],
        {"prompt_too_long": 2, "empty_response": 1, "all": 3},
    )


def test_a_model_directory_without_a_chat_template_is_refused_by_name(project, tiny_checkpoint):
    shutil.copytree(tiny_checkpoint, project / "broken")
    (project / "broken/chat_template.jinja").unlink()
    with pytest.raises(ModelError, match=r"broken has no chat template: add a chat_template\.jinja"):
        run(project, "data_engineering", params={"model": {"source": "checkpoint", "name": "broken"}})


def test_policies_are_measured_on_benchmarks_with_one_engine_start_each(project, monkeypatch):
    import lm_eval.tasks

    from rao_kedro.evals import locations, policy_answers
    from rao_kedro.evals.downstream import named_tasks
    from rao_kedro.generation import generators

    gsm8k = Path(lm_eval.tasks.__file__).parent / "gsm8k"  # an index of all the harness's tasks takes ten seconds
    few = named_tasks.TaskManager(include_path=gsm8k, include_defaults=False)
    monkeypatch.setattr(named_tasks, "TaskManager", lambda: few)
    from chat_server import chat_server, refusal, reply

    starts = []

    def counted(*model, **how):
        starts.append(how["max_model_len"])
        return generators.make_generator(*model, **how)

    monkeypatch.setattr(policy_answers.main, "__defaults__", (counted,))
    opened, open_file = Counter(), locations.open_location
    monkeypatch.setattr(
        locations, "open_location", lambda location, *how: opened.update([Path(location)]) or open_file(location, *how)
    )

    def answer(request, number):
        asked = request["messages"][-1]["content"]
        if request["model"] == "served":
            return reply(("The answer is 2.", {}))
        if request["model"] == "rule" and "Name a dog." in asked:
            return refusal(400, "flagged by our content filter")
        if request["max_tokens"] == 1:
            return reply(("m", {"m": -0.2, "M": -1.8}))
        return reply(("Fine. [[7]]" if "Which" not in asked else "[[A]]", {}))

    for pipeline in ("data_engineering", "supervised_finetuning", "reward_modeling", "alignment"):
        run(project, pipeline, params={"methods": "rao"})
    with chat_server(answer) as (url, requests):
        benchmarks = benchmark_files(project) | {
            "judge": {"model": "rule", "base_url": url, "max_attempts": 1},
            "second_judge": {"model": "other", "base_url": url},
            "served_models": {"api": {"model": "served", "base_url": url}},
        }
        run(project, "evaluation", params={"methods": "rao", "evaluation": {"benchmarks": benchmarks}})
    asked = Counter((request["model"], request["max_tokens"]) for request in requests)
    assert len(starts) == 2
    # Files of benchmarks are read once for all models, and kept with their hashes.
    files = ("baseline.json", "question.jsonl", "gpt-4.jsonl", "judge_prompts.jsonl")
    assert {name: opened[project / name] for name in files} == dict.fromkeys(files, 1)
    manifest = json.loads((project / "data/test/01_raw/benchmarks/manifest.json").read_text())
    assert {name: entry["rows"] for name, entry in manifest.items()} == {
        "alpaca_eval.baseline": 3,
        "mt_bench.questions": 2,
        "mt_bench.reference_answers": 1,
        "mt_bench.judge_prompts": 8,
        "sources.gsm8k": 1,
        "sources.arc_easy": 2,
    }
    record = json.loads((project / "data/test/07_model_output/.made_from/rao_generations.parquet.json").read_text())
    assert record["inputs"]["benchmark_files"] == path_hash(project / "data/test/01_raw/benchmarks")
    # AlpacaEval, MT-Bench's turns; the chains of thought; GSM8K as the harness asks it.
    assert (asked["served", 8], asked["served", 16], asked["served", 256]) == (3 + 2 * 2, 3, 1)
    # AlpacaEval in both orders by both judges; MT-Bench graded, and in both orders compared with SFT; each once, though
    # sft and rao may answer the same.
    assert 3 * 2 * 2 <= asked["rule", 1] == asked["other", 1] <= 3 * 3 * 2
    assert 0 < asked["rule", 2048] <= 3 * 2 * 2 + 2 * 2 * 2 * 2

    data = project / "data/test"
    scores = pd.read_csv(data / "08_reporting/benchmark_scores.csv").set_index(["method", "benchmark", "metric"])
    assert scores.loc[("rao", "mt_bench", "score"), ["value", "n"]].tolist() == [7.0, 2]
    # One of three prompts was refused: that item is unscored, and everything else is there.
    assert scores.loc[("rao", "alpaca_eval", "win_rate"), ["n", "unscored"]].tolist() == [2, 1]
    annotations = pd.read_parquet(data / "07_model_output/alpaca_eval_annotations.parquet")
    unscored = annotations[annotations["unscored_reason"] != ""]
    assert set(zip(unscored["annotator"], unscored["instruction"], strict=True)) == {("rule", "Name a dog.")}
    assert scores.loc[("rao", "mt_bench", "score"), "vs_sft"] == 0.0
    assert scores.loc[("rao", "mt_bench", "win_rate_vs_sft"), ["value", "n"]].tolist() == [50.0, 2]
    assert scores.loc[("api", "gsm8k", "accuracy"), "value"] == 100.0
    for benchmark, metric in (("gsm8k", "strict-match"), ("lm_eval/gsm8k_cot", "exact_match,strict-match")):
        assert scores.loc[("api", benchmark, metric), ["value", "n"]].tolist() == [100.0, 1]
        assert scores.loc[("rao", benchmark, metric), "vs_sft"] == 0.0
    for kind in ("benchmark_answers", "downstream_samples"):
        written = pd.read_parquet(data / f"07_model_output/rao_{kind}.parquet")
        assert (written["finish_reason"] == "length").any()
    cut = pd.read_parquet(data / "07_model_output/rao_downstream_scores.parquet").set_index(["task", "metric"])["cut"]
    assert cut["gsm8k", "accuracy"] > 0
    assert {"gsm8k", "arc_easy"} <= set(scores.index.get_level_values("benchmark"))
    assert scores.loc[("sft", "arc_easy", "accuracy"), "chance"] == pytest.approx(100 * (1 / 3 + 1 / 4) / 2)
    judged = pd.read_csv(data / "08_reporting/judge_report.csv").set_index(["method", "metric"])
    assert judged.loc[("rao", "first_preferred"), "value"] > 0.8 and judged.loc[("rao", "consistent"), "value"] == 0
    assert judged.loc[("rao", "mt_bench_consistent"), "value"] == 0
    assert judged.loc[("rao", "agreement"), ["judge", "value"]].tolist() == ["rule and other", 1.0]
    usage = pd.read_parquet(data / "07_model_output/judge_usage.parquet")
    assert set(usage["identity"]) == {f"rule at {url}", f"other at {url}"}
    assert set(usage["judge"]) == {"rule", "other"} and set(usage["method"]) == {"sft", "rao", "api"}
    for method in ("sft", "rao", "api"):
        outputs = json.loads((data / f"07_model_output/alpaca_eval_outputs/{method}.json").read_text())
        assert [row["generator"] for row in outputs] == [method] * 3 and set(outputs[0]) >= {"instruction", "output"}
    report = (data / "08_reporting/benchmark_report.html").read_text()
    assert "Tasks of lm-evaluation-harness" in report and "lm_eval/gsm8k_cot exact_match,strict-match" in report
    assert "not judged: the server refused the request with HTTP status 400: flagged by our content filter" in report
    assert "7 of 10, says rule" in report and "preferred over base with probability" in report

    settings = json.loads((data / "07_model_output/rao_generation_settings.json").read_text())
    assert settings["stop_token_ids"] and "messages" in settings["chat_template"]
    assert settings["benchmarks"]["alpaca_eval"]["max_tokens"] == 8 and "transformers" in settings["versions"]

    # What was answered and judged is neither written nor asked for again, though the server is gone.
    run(project, "evaluation", params={"methods": "rao", "evaluation": {"benchmarks": benchmarks}})
    assert len(starts) == 2

    # Without a judge there is nothing to say about one.
    while mlflow.active_run():  # parameters of a run cannot change
        mlflow.end_run()
    alone = benchmarks | {"names": "gsm8k", "judge": None, "second_judge": None, "served_models": {}}
    run(project, "evaluation", params={"methods": "rao", "evaluation": {"benchmarks": alone}})
    assert "Answers side by side" in (data / "08_reporting/benchmark_report.html").read_text()
    assert pd.read_csv(data / "08_reporting/judge_report.csv").empty


def benchmark_files(directory):
    """Write files of benchmarks in their authors' formats; return parameters that name them."""

    def written(name, rows):
        text = "".join(json.dumps(row) + "\n" for row in rows) if name.endswith("l") else json.dumps(rows)
        (directory / name).write_text(text)
        return str(directory / name)

    instructions = ["Name a prime.", "Name a fox.", "Name a dog."]
    baseline = [{"instruction": text, "output": "Seven.", "generator": "base"} for text in instructions]
    questions = [
        {"question_id": 81, "category": "writing", "turns": ["Write a line.", "Shorter."]},
        {"question_id": 111, "category": "math", "turns": ["1 + 1?", "And doubled?"]},
    ]
    references = [{"question_id": 111, "choices": [{"turns": ["2", "4"]}]}]
    templates = {"single-v1": "{question} {answer}", "single-v1-multi-turn": "{question_2} {answer_1} {answer_2}"}
    templates |= {"pair-v2": "Which? {answer_a} {answer_b}", "pair-v2-multi-turn": "Which? {answer_a_2} {answer_b_2}"}
    templates |= {
        name.replace("v1", "math-v1").replace("pair-v2", "pair-math-v1"): f"{{ref_answer_1}} {text}"
        for name, text in templates.items()
    }
    prompts = [{"name": n, "system_prompt": "Judge.", "prompt_template": t} for n, t in templates.items()]
    arc = [
        {
            "instruction": "Choose: Fox?\n\nAnswer1: a Answer2: b Answer3: c\n\nAnswer format: answer1/answer2",
            "answer": "answer2",
        },
        {
            "instruction": "Choose: Dog?\n\nAnswer1: a Answer2: b Answer3: c Answer4: d\n\nAnswer format: answer1",
            "answer": "answer4",
        },
    ]
    gsm8k = [{"question": "1 + 1?", "answer": "It is 2.\n#### 2"}]
    rows = written("gsm8k.jsonl", gsm8k)
    return {
        "names": "alpaca_eval mt_bench gsm8k arc_easy",
        "max_model_len": 1200,
        "chain_of_thought": {"max_tokens": 16},
        "harness": {
            "tasks": "gsm8k_cot",
            "num_fewshot": 1,
            "datasets": {"gsm8k_cot": {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": rows}}}},
        },
        "alpaca_eval": {
            "baseline": written("baseline.json", baseline),
            "instruction_difficulty": None,
            "gamed": None,
            "max_tokens": 8,
            "both_orders": True,
        },
        "mt_bench": {
            "questions": written("question.jsonl", questions),
            "reference_answers": written("gpt-4.jsonl", references),
            "judge_prompts": written("judge_prompts.jsonl", prompts),
            "max_tokens": 8,
            "compare_with_sft": True,
        },
        "sources": {
            "gsm8k": {"path": rows},
            "arc_easy": {"path": written("arc.json", arc)},
        },
    }
