"""What MLflow is given: names and values of parameters, scores, artefacts; nothing secret."""

import mlflow
import pandas as pd
import pytest
from kedro_mlflow.config.kedro_mlflow_config import KedroMlflowConfig
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

from rao_kedro.config.generation import GenerationSpec
from rao_kedro.config.rewards import RewardParameters
from rao_kedro.framework.tracking import TrackingHooks, in_project, metrics
from rao_kedro.training.progress import MetricsLog
from rao_kedro.workers import _environment


class Node:
    name = "node"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="module")
def hooks(project):
    """Hooks of a run that goes on, on a store of its own."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(in_project("sqlite:///mlflow.db", project))
    experiment = mlflow.create_experiment("test", artifact_location=(project / "mlruns").as_uri())
    found = TrackingHooks()
    found.flatten, found.mlflow_config = True, KedroMlflowConfig()
    found.run_id = mlflow.start_run(experiment_id=experiment).info.run_id
    yield found
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(before)


def test_every_leaf_of_a_parameter_is_logged_by_its_name_cut_to_mlflows_length_and_without_credentials(hooks):
    reward = RewardParameters(name="rules", parameters={"base_url": "https://me:secret@host/v1?sig=secret&x=1"})
    many = {f"p{i}": i for i in range(150)}
    inputs = {
        "params:alignment.rao": {"reward": reward, "parameters": {"beta": 0.05}, "many": many, "long": "x" * 7000},
        "params:places": ["hf://user:secret@host/data"],
        "tokenized_groups": {"no": "parameter"},
    }
    for _ in range(2):  # another node with the same ones
        hooks.before_node_run(Node, None, inputs, False)
    found = mlflow.get_run(hooks.run_id).data.params
    assert found["alignment.rao.parameters.beta"] == "0.05" and found["alignment.rao.reward.name"] == "rules"
    assert found["alignment.rao.many.p149"] == "149" and len(found["alignment.rao.long"]) == MAX_PARAM_VAL_LENGTH
    assert found["alignment.rao.reward.parameters.base_url"] == "https://***@host/v1?sig=***&x=***"
    assert "secret" not in repr(found) and "no" not in repr([*found])


def test_workers_log_to_the_projects_store_from_wherever_they_are(hooks, project, tmp_path, monkeypatch):
    spec = GenerationSpec(model_dir=tmp_path, prompts_path=tmp_path, output_path=tmp_path)
    environment = _environment(spec, "rao.")
    assert environment["MLFLOW_TRACKING_URI"] == f"sqlite:///{project}/mlflow.db"
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "RAO_KEDRO_METRIC_PREFIX"):
        monkeypatch.setenv(name, environment[name])
    MetricsLog(tmp_path / "log.jsonl", 0, is_main=True).write(step=1, loss=0.25)
    assert mlflow.get_run(hooks.run_id).data.metrics["rao.loss"] == 0.25
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_scores_are_metrics_and_reports_are_artefacts(hooks, project):
    board = pd.DataFrame({"method": ["sft", "rao"], "rule_score": [0.5, 0.75], "kl_to_reference": [0.0, float("nan")]})
    scores = pd.DataFrame({"method": ["rao"], "benchmark": ["gsm8k"], "metric": ["accuracy"], "value": [12.5]})
    assert metrics("leaderboard", board) == {
        "sft/rule_score": 0.5,
        "sft/kl_to_reference": 0.0,
        "rao/rule_score": 0.75,
    }
    hooks.after_dataset_saved("leaderboard", board)
    hooks.after_dataset_saved("benchmark_scores", scores)
    hooks.after_dataset_saved("benchmark_report", "<html>")
    hooks.after_dataset_saved("tokenized_groups", board)
    run = mlflow.get_run(hooks.run_id)
    assert run.data.metrics["rao/rule_score"] == 0.75 and run.data.metrics["rao/gsm8k/accuracy"] == 12.5
    kept = project / "mlruns" / hooks.run_id / "artifacts"
    assert {path.name for path in kept.iterdir()} == {
        "leaderboard.csv",
        "benchmark_scores.csv",
        "benchmark_report.html",
    }
    pd.testing.assert_frame_equal(pd.read_csv(kept / "leaderboard.csv"), board)


def test_a_run_ends_though_a_node_opened_it_again_and_another_one_goes_on(hooks):
    inner = TrackingHooks()
    inner.flatten, inner.mlflow_config = True, KedroMlflowConfig()
    experiment = mlflow.get_run(hooks.run_id).info.experiment_id
    inner.run_id = mlflow.start_run(experiment_id=experiment, nested=True).info.run_id
    inner.before_node_run(Node, None, {"params:a": 1}, False)
    inner.after_pipeline_run({}, None, None)
    assert mlflow.active_run().info.run_id == hooks.run_id
    assert mlflow.get_run(inner.run_id).info.status == "FINISHED"
    inner.run_id = mlflow.start_run(experiment_id=experiment, nested=True).info.run_id
    inner.end("KILLED")  # as Ctrl-C does
    assert mlflow.get_run(inner.run_id).info.status == "KILLED"
