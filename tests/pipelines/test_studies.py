"""Studies as pipelines: each run is a namespace whose artefacts are kept, and whose model is not."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from kedro.framework.hooks import hook_impl
from projects import end_tracking, open_project

from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.specs import AnnotationSpec, RewardTrainingSpec
from rao_kedro.evals.reward_accuracy import group_outcomes
from rao_kedro.framework.session import StudySession
from rao_kedro.pipelines.alignment.nodes import align
from rao_kedro.training.progress import Progress
from rao_kedro.workers import launch

ONLY = {"likelihood_study": {"only": "dpo rao_beta_0.1"}}
REWARDS = {"reward_model_study": {"forms": "sft dpo_implicit", "sizes": {"large": 9}}}  # `small` is 8 in the test env
LOGS = {f"likelihood_study.{run}.train" for run in ("dpo", "rao_beta_0_1")}
COMPARED = {f"likelihood_study.{node}" for node in ("collect_logs", "summarise_runs", "plot_runs")}
SIZES = ("small", "large")
REWARDS_COMPARED = {
    f"reward_model_study.{node}" for node in ("collect_outcomes", "collect_logs", "summarise_runs", "plot_runs")
}
MACHINE = ("second", "mfu", "memory")  # in the names of columns that depend on the machine


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project in which everything that the studies read has been made."""
    with open_project(tmp_path_factory.mktemp("project")) as directory:
        run(to_outputs=["reference_logprobs@path"])
        yield directory


@pytest.fixture(scope="module")
def studied(project):
    """The same after two runs of the likelihood study."""
    run("likelihood_study", params=ONLY)
    return project


@pytest.fixture(scope="module")
def rewarded(project):
    """The same after four runs of the reward model study."""
    run("reward_model_study", params=REWARDS)
    return project


def session(params=None):
    end_tracking()
    return StudySession.create(Path.cwd(), env="test", runtime_params=params)


def run(*pipelines, params=None, **options):
    with session(params) as created:
        created.run(pipeline_names=[*pipelines], **options)


def stale(pipeline, params=None, **options):
    with session(params) as created:
        return dict(created.stale_nodes(pipeline_names=[pipeline], **options))


@contextmanager
def kept(path):
    """Put a directory back as it was."""
    shutil.copytree(path, copy := path.with_name(".kept"))
    try:
        yield
    finally:
        shutil.rmtree(path)
        copy.rename(path)


def without_machine(log):
    return log[[name for name in log if not any(part in name for part in MACHINE)]]


def assert_same_log(found, expected):
    assert set(found) == set(expected) and len(found) > 2
    pd.testing.assert_frame_equal(without_machine(found), without_machine(expected)[[*without_machine(found)]])


def models_under(directory):
    return sorted(path.parent.name for path in directory.rglob("*.safetensors"))


def test_the_log_of_a_run_is_that_of_training_its_method_directly_and_no_policy_is_left(studied, tmp_path):
    data = studied / "data/test"
    with session() as created:
        params = created.load_context().params
    workers = params["workers"].model_copy(update={"workspaces": tmp_path})
    paths = data / "06_models/sft", data / "05_model_input/reward_annotated.parquet"
    reference = data / "05_model_input/reference_logprobs.parquet"
    about = params["kl_to_reference"], params["data"].t0_length, workers, reference
    logs = pd.read_csv(data / "07_model_output/likelihood_study_logs.csv")
    for name in ("dpo", "rao_beta_0.1"):
        _, log = align(*paths, params["likelihood_study"].runs[name], *about, run=name)
        log.to_csv(tmp_path / "log.csv", index=False)
        found = logs[logs["run"] == name].drop(columns="run").dropna(axis=1, how="all").reset_index(drop=True)
        assert_same_log(found, pd.read_csv(tmp_path / "log.csv"))
    assert models_under(tmp_path) == ["model", "model"]
    assert not list(studied.rglob("workspaces/**/likelihood_study/*"))
    summary = pd.read_csv(data / "08_reporting/likelihood_study.csv")
    assert list(summary["run"]) == ["dpo", "rao_beta_0.1"] and (summary["n"] > 0).all()


def test_a_finished_study_is_fresh_and_one_more_run_trains_that_run_alone(studied):
    assert stale("likelihood_study", ONLY) == {}
    more = {"likelihood_study": {"only": "dpo rao_beta_0.1 ipo"}}
    found = stale("likelihood_study", more)
    assert set(found) == {"likelihood_study.ipo.train"} | COMPARED
    assert found["likelihood_study.collect_logs"] == ["likelihood_study.ipo.training_log is made again"]
    assert set(stale("likelihood_study", {"likelihood_study": {"only": "dpo"}})) == COMPARED


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"likelihood_study": {"runs": {"dpo": {"parameters": {"beta": 0.7}}}}}, {"likelihood_study.dpo.train"}),
        ({"kl_to_reference": {"prompts": 3}}, LOGS),
        ({"alignment": {"dpo": {"parameters": {"beta": 0.7}}}}, set()),
        ({"study_training": {"seed": 9}}, LOGS),
    ],
    ids=["of a run", "of all runs", "of no run", "of all trainings"],
)
def test_a_parameter_makes_stale_the_runs_that_read_it(studied, params, expected):
    study = {**params.get("likelihood_study", {}), **ONLY["likelihood_study"]}
    found = stale("likelihood_study", {**params, "likelihood_study": study})
    assert set(found) == (expected | COMPARED if expected else set())


def test_a_run_is_trained_by_its_namespace_and_alone(studied):
    with kept(studied / "data/test"):
        log = studied / "data/test/07_model_output/likelihood_study/simpo_training_log.csv"
        others = {path: path.stat().st_mtime_ns for path in log.parent.glob("*.csv")}
        run("likelihood_study", params=ONLY, namespaces=["likelihood_study.simpo"])
        assert log.exists() and len(others) == 2
        assert {path: path.stat().st_mtime_ns for path in others} == others
        assert pd.read_csv(log)["log_ratio_chosen"].notna().any()  # compared with the reference, which SimPO is without


class Kill:
    """Kills a run before a dataset is saved."""

    def __init__(self, dataset):
        self.dataset = dataset

    @hook_impl
    def before_dataset_saved(self, dataset_name):
        if dataset_name == self.dataset:
            raise KeyboardInterrupt


def test_a_run_that_was_killed_before_its_log_was_saved_trains_nothing_again(studied, monkeypatch):
    steps = []
    report = Progress.report
    monkeypatch.setattr(Progress, "report", lambda self, step, **how: steps.append(step) or report(self, step, **how))
    with kept(studied / "data/test"):
        only = {"likelihood_study": {"only": "dpo ipo"}}
        with pytest.raises(KeyboardInterrupt), session(only) as created:
            created._hook_manager.register(Kill("likelihood_study.ipo.training_log"))
            created.run(pipeline_names=["likelihood_study"], only_stale_outputs=True)
        trained = len(steps)
        assert trained and set(stale("likelihood_study", only)) == {"likelihood_study.ipo.train"} | COMPARED
        run("likelihood_study", params=only, only_stale_outputs=True)
        assert len(steps) == trained and stale("likelihood_study", only) == {}
        assert list(pd.read_csv(studied / "data/test/08_reporting/likelihood_study.csv")["run"]) == ["dpo", "ipo"]


def test_outcomes_of_a_reward_model_are_those_of_training_and_scoring_it_directly(rewarded, tmp_path):
    data = rewarded / "data/test"
    with session() as created:
        params = created.load_context().params
    study = params["reward_model_study"]
    groups, test = (data / f"05_model_input/reward_model_study/{n}_groups.parquet" for n in ("small_seed_0", "test"))
    workers = params["workers"]
    spec = RewardTrainingSpec(
        workspace=tmp_path / "training",
        model_dir=data / "06_models/sft",
        groups_path=groups,
        t0_length=params["data"].t0_length,
        training=study.training.model_copy(update={"seed": 0}),
        centering=study.centering,
    )
    launch(spec, workers)
    reward = {"model_dir": str(spec.trained_dir), "mixed_precision": study.training.mixed_precision}
    scoring = AnnotationSpec(
        workspace=tmp_path / "scoring",
        groups_path=test,
        reward=RewardParameters(name="bradley_terry", parameters=reward),
        output_path=tmp_path / "rewards.parquet",
    )
    launch(scoring, workers)
    expected = group_outcomes(pd.read_parquet(test), pd.read_parquet(scoring.output_path))
    made = data / "07_model_output/reward_model_study"
    found = pd.read_parquet(made / "sft_small_seed_0_outcomes.parquet")
    pd.testing.assert_frame_equal(found.drop(columns="train_groups"), expected)
    assert (found["train_groups"] == 8).all()
    log = pd.read_json(spec.log_path, lines=True)
    log.to_csv(tmp_path / "log.csv", index=False)
    assert_same_log(pd.read_csv(made / "sft_small_seed_0_training_log.csv"), pd.read_csv(tmp_path / "log.csv"))


def test_the_reward_model_study_compares_all_forms_and_sizes_and_leaves_no_model(rewarded):
    data = rewarded / "data/test"
    table = pd.read_csv(data / "08_reporting/reward_model_study.csv")
    assert list(table["form"]) == ["longer response", "sft", "sft", "dpo_implicit", "dpo_implicit"]
    assert list(table["train_groups"]) == [0, 8, 9, 8, 9]
    tokenized = pd.read_parquet(data / "05_model_input/tokenized_groups.parquet")
    assert (table["n"] == (tokenized["split"] == "test").sum()).all()
    assert not list(rewarded.rglob("workspaces/**/reward_model_study/*"))


def test_another_seed_of_the_reward_model_study_trains_the_new_runs_alone(rewarded):
    assert stale("reward_model_study", REWARDS) == {}
    found = stale("reward_model_study", {"reward_model_study": {**REWARDS["reward_model_study"], "seeds": 2}})
    runs = {f"reward_model_study.{form}_{size}_seed_1.measure" for form in ("sft", "dpo_implicit") for size in SIZES}
    drawn = {f"reward_model_study.select_groups_{size}_seed_1" for size in SIZES}
    assert set(found) == runs | drawn | REWARDS_COMPARED


def test_a_size_or_a_form_makes_stale_the_runs_that_have_it(rewarded):
    study = {**REWARDS["reward_model_study"], "sizes": {"small": 5, "large": 9}}
    runs = {f"reward_model_study.{form}_small_seed_0.measure" for form in ("sft", "dpo_implicit")}
    found = stale("reward_model_study", {"reward_model_study": study})
    assert set(found) == runs | {"reward_model_study.select_groups_small_seed_0"} | REWARDS_COMPARED
    study = {**REWARDS["reward_model_study"], "dpo": {"parameters": {"beta": 0.7}}}
    runs = {f"reward_model_study.dpo_implicit_{size}_seed_0.measure" for size in SIZES}
    assert set(stale("reward_model_study", {"reward_model_study": study})) == runs | REWARDS_COMPARED
