"""What is stale after an edit: exactly what depends on it. One finished chain, which the tests edit and mend again."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.hooks import hook_impl
from projects import end_tracking, open_project
from transformers import AutoModelForCausalLM

from rao_kedro.cli import cli
from rao_kedro.errors import ParameterError
from rao_kedro.framework.session import StudySession, warn_about_stale_inputs
from rao_kedro.planning.machine import size
from rao_kedro.training.progress import Progress

ROOT = Path(__file__).parents[2]
ALL = {
    *("prepare_base_model", "collect_preferences", "tokenize", "train_sft", "plot_sft_training", "sft.generate"),
    *("train_reward_model", "plot_reward_training", "annotate_responses", "report_rewards", "plot_rewards"),
    *(
        "score_reference",
        "report_feasibility",
        "sft.score",
        "rao.train",
        "rao.plot_training",
        "rao.generate",
        "rao.score",
    ),
    *("dpo.train", "dpo.plot_training", "dpo.generate", "dpo.score"),
    *("compare_methods", "plot_scores", "plot_training", "write_report"),
}
COMPARED = {"compare_methods", "plot_scores", "write_report"}
POLICIES = ("sft", "rao", "dpo")


def method(name):
    return {f"{name}.{node}" for node in ("train", "plot_training", "generate", "score")} | COMPARED | {"plot_training"}


ALIGNED = method("rao") | method("dpo")
ANNOTATED = {"report_rewards", "plot_rewards", "score_reference", "report_feasibility", "sft.score"} | ALIGNED
TARGETS = {"report_rewards", "plot_rewards", "report_feasibility"}
REWARDED = {"train_reward_model", "plot_reward_training", "annotate_responses"} | ANNOTATED
TUNED = {"train_sft", "plot_sft_training", "sft.generate"} | REWARDED
SCORED = {f"{policy}.score" for policy in POLICIES} | COMPARED
GENERATED = {f"{policy}.generate" for policy in POLICIES} | SCORED


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project whose chain has run."""
    with open_project(tmp_path_factory.mktemp("project")) as directory:
        run()
        yield directory


def session(**params):
    end_tracking()
    return StudySession.create(Path.cwd(), env="test", runtime_params=params)


def run(pipeline=None, params=None, **options):
    with session(**params or {}) as created:
        created.run(pipeline_names=[pipeline] if pipeline else None, **options)


def stale(params=None, **options):
    with session(**params or {}) as created:
        return dict(created.stale_nodes(**options))


@pytest.fixture(scope="module")
def plain_session(project):
    """A session without parameters of its own, which is asked for what is stale but not run."""
    with session() as created:
        yield created


@contextmanager
def kept(path):
    """Put a file or directory back, as it was."""
    copy = path.with_name(f".kept-{path.name}")
    (shutil.copytree if path.is_dir() else shutil.copy)(path, copy)
    try:
        yield
    finally:
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        copy.rename(path)


def nested(name, value):
    for key in reversed(name.split(".")):
        value = {key: value}
    return value


def test_nothing_of_a_finished_chain_is_stale(project):
    assert stale() == {}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("supervised_finetuning.training.learning_rate", 2e-5, TUNED),
        ("reward_modeling.centering", 0.0, REWARDED),
        ("reward_modeling.normalisation", "standardise", {"annotate_responses"} | ANNOTATED),
        ("reward_modeling.length_penalty", 0.1, {"annotate_responses"} | ANNOTATED),
        ("data.pairing", "best_vs_worst", {"tokenize"} | TUNED),
        ("data.t0_length", 2, {"tokenize"} | TUNED),
        ("data.sampled.train_prompts", 57, {"collect_preferences", "tokenize"} | TUNED),
        ("reference.max_tokens_per_batch", 1024, {"score_reference", "report_feasibility", "sft.score"} | ALIGNED),
        ("alignment.rao.parameters.beta", 0.5, TARGETS | method("rao")),
        ("alignment.rao.training.epochs", 2, method("rao")),
        ("alignment.dpo.parameters.beta", 0.5, method("dpo")),
        ("alignment.simpo.parameters.beta", 0.5, set()),
        ("kl_to_reference.prompts", 3, ALIGNED),
        ("evaluation.generation.sampling.temperature", 0.5, GENERATED),
        ("evaluation.generation.sampling.top_k", 5, GENERATED),
        ("evaluation.generation.engine.data_parallel_size", 2, set()),
        ("evaluation.benchmarks.limit", 1, set()),  # no benchmark is chosen
        ("evaluation.benchmarks.judge", {"model": "some"}, set()),
        ("evaluation.reward.name", "rules", SCORED),
        ("evaluation.seed", 1, COMPARED),
        ("evaluation.examples", 2, {"write_report"}),
        ("likelihood_study.only", "rao", set()),
        ("methods", "dpo rao", set()),
        ("methods", "rao", COMPARED | {"plot_training"}),
        ("methods", "rao dpo simpo", method("simpo")),
        ("alignment.rao.seeds", [0, 1], method("rao_seed_1")),
    ],
)
def test_a_parameter_makes_stale_what_depends_on_it(project, name, value, expected):
    found = stale(nested(name, value))
    assert set(found) == expected
    if expected and name not in ("methods", "alignment.rao.seeds"):
        first = next(iter(found.values()))
        assert first[0].startswith(f"parameter {name} was ") and first[0].endswith(f", is {value}")


def test_leaving_fine_tuning_out_makes_stale_what_was_made_from_the_sft_model(project):
    found = stale(nested("supervised_finetuning.start", "none"))
    assert set(found) == TUNED - {"train_sft", "plot_sft_training"}
    assert "input sft_model is left out" in found["train_reward_model"]


def test_another_first_seed_makes_the_method_itself_stale(project):
    found = stale(nested("alignment.rao.seeds", [5]))
    assert set(found) == method("rao")
    assert found["rao.train"] == ["parameter alignment.rao.training.seed was 0, is 5"]


def test_of_a_named_method_only_its_own_nodes_are_stale(plain_session):
    own = {f"simpo.{node}" for node in ("train", "plot_training", "generate", "score")}
    assert set(plain_session.stale_nodes(namespaces=["simpo"])) == own
    assert set(plain_session.stale_nodes(to_outputs=["simpo.policy"])) == {"simpo.train"}
    assert plain_session.stale_nodes(to_outputs=["rao.policy"]) == {}


def edited_json(path):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"edited": True}))


def edited_row(path):
    rows = pd.read_parquet(path)
    rows.loc[0, "reward_model"] = "another"
    rows.to_parquet(path)


def edited_line(path):
    first, *others = path.read_text().splitlines(keepends=True)
    path.write_text("".join([first.replace("sentence", "phrase", 1) + " ", *others]))


@pytest.mark.parametrize(
    ("path", "edit", "expected"),
    [
        ("data/01_raw/prompts.jsonl", edited_line, {"collect_preferences", "tokenize"} | TUNED),
        ("data/test/06_models/base_model/generation_config.json", edited_json, ALL - {"prepare_base_model"}),
        ("data/test/06_models/base_model/vocab.json", lambda p: p.write_text("{}"), ALL - {"prepare_base_model"}),
        ("data/test/06_models/base_model/README.md", lambda p: p.write_text("changed"), set()),
        ("data/test/06_models/sft/tokenizer_config.json", edited_json, {"sft.generate"} | REWARDED),
        ("data/test/06_models/dpo/config.json", edited_json, {"dpo.generate", "dpo.score"} | COMPARED),
        ("data/test/05_model_input/reward_annotated.parquet", edited_row, ANNOTATED),
        ("data/test/08_reporting/report.html", Path.unlink, {"write_report"}),
        ("data/test/07_model_output/rao_training_log.csv", Path.unlink, method("rao")),
        ("data/test/06_models/dpo", shutil.rmtree, method("dpo")),
        ("data/test/08_reporting/.made_from/leaderboard.csv.json", Path.unlink, COMPARED),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_makes_stale_what_depends_on_it(project, plain_session, path, edit, expected):
    path = project / path
    new = not path.exists()
    if new:
        path.touch()
    with kept(path):
        edit(path)
        assert set(plain_session.stale_nodes()) == expected
    if new:
        path.unlink()


def test_what_was_put_back_is_fresh(project, plain_session):
    assert plain_session.stale_nodes() == {}


class Kill:
    """Kills a run before a dataset is saved."""

    def __init__(self, dataset):
        self.dataset = dataset

    @hook_impl
    def before_dataset_saved(self, dataset_name):
        if dataset_name == self.dataset:
            raise KeyboardInterrupt


def test_a_kill_between_two_outputs_trains_nothing_again_and_passes_nothing_off_as_fresh(project, monkeypatch):
    steps = []
    report = Progress.report
    monkeypatch.setattr(Progress, "report", lambda self, step, **how: steps.append(step) or report(self, step, **how))
    changed = nested("alignment.rao.parameters.beta", 0.5)
    with kept(project / "data/test"):
        with pytest.raises(KeyboardInterrupt), session(**changed) as created:
            created._hook_manager.register(Kill("training_log_rao"))
            created.run(only_stale_outputs=True)
        trained = len(steps)
        assert trained
        # The policy of beta 0.5 stands there, with the log of 0.05: neither passes for that of either.
        assert stale()["rao.train"][0] == "nothing says what rao.policy was made from"
        assert "rao.train" in stale(changed)
        run(params=changed, only_stale_outputs=True)
        assert len(steps) == trained and stale(changed) == {}
        assert stale()["rao.train"] == ["parameter alignment.rao.parameters.beta was 0.5, is 0.05"]


def test_only_stale_outputs_trains_an_added_method_and_compares_again(project):
    with kept(project / "data/test"):
        policies = {name: project / f"data/test/06_models/{name}/model.safetensors" for name in POLICIES}
        before = {name: path.stat().st_mtime_ns for name, path in policies.items()}
        chosen = {"methods": "rao dpo simpo"}
        found = stale(chosen)
        assert found["compare_methods"] == [
            "held_out_logps_simpo is made again",
            "scored_generations_simpo is made again",
            "training_log_simpo is made again",
        ]
        run(params=chosen, only_stale_outputs=True)
        leaderboard = pd.read_csv(project / "data/test/08_reporting/leaderboard.csv")
        assert set(leaderboard["method"]) == {"sft", "rao", "dpo", "simpo"}
        assert {name: path.stat().st_mtime_ns for name, path in policies.items()} == before
        assert stale(chosen) == {}
        assert stale()["compare_methods"] == [
            "input held_out_logps_simpo is left out",
            "input scored_generations_simpo is left out",
            "input training_log_simpo is left out",
        ]


def test_a_run_says_what_is_stale_of_what_it_does_not_make_again(project, caplog):
    with kept(project / "data/test"):
        (project / "data/test/08_reporting/scores_by_method.json").unlink()
        changed = nested("alignment.rao.parameters.beta", 0.5)
        run(params=changed, only_missing_outputs=True)
        said = caplog.text
        assert "stale, but not missing: rao.train: parameter alignment.rao.parameters.beta was 0.05, is 0.5" in said
        assert "--only-stale-outputs does" in said and "missing: plot_scores" not in said
        assert (project / "data/test/08_reporting/scores_by_method.json").exists()
        caplog.clear()
        run("evaluation", params=changed, node_names=["plot_training"])
        assert "this run takes what is stale: rao.train: parameter alignment.rao.parameters.beta was" in caplog.text
        assert "dpo.train" not in caplog.text
        with pytest.raises(ParameterError, match="ask for one of the two"):
            run(only_missing_outputs=True, only_stale_outputs=True)


def test_a_global_given_by_params_makes_stale_what_takes_it(project):
    found = stale({"beta": 0.5})
    assert set(found) == TARGETS | method("rao") | method("dpo")
    assert found["dpo.train"][0] == "parameter alignment.dpo.parameters.beta was 0.05, is 0.5"


def test_a_dry_run_tells_sizes_times_and_what_is_stale_and_writes_nothing(project, capsys):
    files = {path: path.stat().st_mtime_ns for path in project.rglob("*") if path.is_file()}
    with session(beta=0.5) as created:
        assert created.run(dry_run=True) == {}
    lines = capsys.readouterr().out.splitlines()
    table = {line.split()[0]: line for line in lines[lines.index("") - len(ALL) : lines.index("")]}
    assert set(table) == ALL and max(map(len, lines)) <= 80
    states = {name: line.split()[1] for name, line in table.items()}
    assert {name for name, state in states.items() if state == "stale"} == set(stale({"beta": 0.5}))
    assert set(states.values()) == {"stale", "fresh"}
    groups = pd.read_parquet(project / "data/test/05_model_input/tokenized_groups.parquet").query("split == 'train'")
    tokens = sum(len(g.prompt_ids) + sum(map(len, g.response_ids)) for g in groups.itertuples())
    weights = sum(
        p.numel() for p in AutoModelForCausalLM.from_pretrained(project / "data/test/06_models/sft").parameters()
    )
    assert table["rao.train"].split()[2:5] == [str(len(groups)), f"{tokens:,}", str(-(-len(groups) // 8))]
    assert size(16 * weights) in table["rao.train"] and size(4 * weights) in table["rao.train"]
    assert not any("?" in line for line in lines)
    with session(beta=0.5) as created:
        created.run(dry_run=True, only_stale_outputs=True)
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines() if " stale" in line} == set(
        stale({"beta": 0.5})
    )
    assert {path: path.stat().st_mtime_ns for path in project.rglob("*") if path.is_file()} == files


def test_kedro_run_keeps_its_own_options_and_has_some_more(project):
    run_command = cli.commands["run"]
    more = {p.name for p in run_command.params} - {p.name for p in kedro_run.params}
    assert more == {"only_stale_outputs", "dry_run", "verbose"}
    assert {p.name for p in kedro_run.params} <= {p.name for p in run_command.params}
    with kept(project / "data/test"):
        report = project / "data/test/08_reporting/report.html"
        board = project / "data/test/08_reporting/leaderboard.csv"
        before = report.stat().st_mtime_ns, board.stat().st_mtime_ns
        end_tracking()
        arguments = ["run", "--env", "test", "--only-stale-outputs", "--params", "evaluation.examples=2"]
        result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert result.exit_code == 0
        assert report.stat().st_mtime_ns > before[0] and board.stat().st_mtime_ns == before[1]


def test_no_run_warns_of_methods_that_nobody_chose(project, caplog):
    with session(**nested("evaluation.generation.sampling.max_tokens", 20)) as created:
        pipeline = created.selected().only_nodes(*created.stale_nodes())
        names = [node.name for node in pipeline.nodes]
        assert "write_report" in names and "plot_training" not in names
        warn_about_stale_inputs(pipeline, created.load_context().catalog)
    assert "cal_dpo" not in caplog.text


def test_rewards_of_the_reference_are_stale_with_what_they_are_made_from(project):
    qrpo = {"methods": "qrpo"}
    run("alignment", qrpo)
    made = {"sample_reference", "reward_reference", "report_log_z0"}
    trained = {"qrpo.train", "qrpo.plot_training"}
    assert stale(qrpo, pipeline_name="alignment") == {}
    more = qrpo | nested("reference_rewards.generation.sampling.n", 3)
    assert set(stale(more, pipeline_name="alignment")) == made | trained
    assert (
        set(
            stale(qrpo | nested("reference_rewards.generation.engine.data_parallel_size", 3), pipeline_name="alignment")
        )
        == set()
    )
    other = qrpo | nested("alignment.rao.parameters.log_z0", 3.0)
    assert set(stale(other, pipeline_name="alignment")) == {"report_log_z0", "report_feasibility"}
    assert not made & set(stale(pipeline_name="alignment", params={"methods": "dpo"}))
