"""MLflow: kedro-mlflow's hook, with each parameter under its own name, scores as metrics and reports as artefacts.

MLflow's files are kept in the project's directory. Workers log the metrics of training themselves, to the run that the
environment names.
"""

import math
import numbers
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from kedro.config import MissingConfigException
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Node, Pipeline
from kedro_mlflow.framework.hooks import MlflowHook
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH
from pydantic import BaseModel

# Datasets that MLflow gets as artefacts, and the names of their files there.
ARTEFACTS = {
    "leaderboard": "leaderboard.csv",
    "report": "report.html",
    "benchmark_scores": "benchmark_scores.csv",
    "judge_report": "judge_report.csv",
    "benchmark_report": "benchmark_report.html",
    "likelihood_study": "likelihood_study.csv",
    "reward_report": "reward_report.csv",
    "target_feasibility": "target_feasibility.csv",
}
# Credentials in addresses: https://user:password@host, and https://host/file?X-Amz-Signature=...
USER, QUERY = re.compile(r"(?<=://)[^/@\s'\"]+@"), re.compile(r"(?<=[?&])([^=&\s'\"]+)=[^&\s'\"]+")
SQLITE = "sqlite:///"


class TrackingHooks(MlflowHook):
    """Replaces kedro-mlflow's own hook, which the settings switch off."""

    def __init__(self) -> None:
        """Start with no parameter logged."""
        super().__init__()
        self._already_active_mlflow = False
        self._given: dict[str, str] = {}
        self._logged: dict[str, str] = {}

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Set MLflow up; relative paths of the SQLite file and of the artefacts are in the project's directory."""
        loader: Any = context.config_loader
        loader.config_patterns.setdefault("mlflow", ["mlflow*", "mlflow*/**", "**/mlflow*"])
        try:
            settings = loader["mlflow"]
        except MissingConfigException:
            settings = {"server": {"mlflow_tracking_uri": f"{SQLITE}mlflow.db"}}
        project = Path(context.project_path).resolve()
        uri = (settings.get("server") or {}).get("mlflow_tracking_uri") or ""
        if uri.startswith(SQLITE):
            settings["server"]["mlflow_tracking_uri"] = in_project(uri, project)
            experiment = settings.setdefault("tracking", {}).setdefault("experiment", {})
            experiment.setdefault("create_experiment_kwargs", {}).setdefault(
                "artifact_location", str(project / "mlruns")
            )
            loader["mlflow"] = settings
        super().after_context_created(context)

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Start a run of MLflow."""
        self._given, self._logged = {}, {}
        super().before_pipeline_run(_without_credentials(run_params), pipeline, catalog)

    @hook_impl
    def before_node_run(self, node: Node, catalog: CatalogProtocol, inputs: dict[str, Any], is_async: bool) -> None:
        """Log the parameters of a node, each leaf under its own dotted name."""
        self._given = {}
        parameters = {name: _plain(value) for name, value in inputs.items() if name.startswith("params:")}
        super().before_node_run(node, catalog, _without_credentials(parameters), is_async)
        new = [(name, text) for name, text in self._given.items() if self._logged.get(name) != text]
        for start in range(0, len(new), MAX_PARAMS_TAGS_PER_BATCH):
            mlflow.log_params(dict(new[start : start + MAX_PARAMS_TAGS_PER_BATCH]), run_id=self.run_id)
        self._logged |= new

    def _log_param(self, name: str, value: Any) -> None:
        """Collect a parameter, cut to MLflow's length; logging each alone would take a second per node."""
        self._given[name] = str(value)[:MAX_PARAM_VAL_LENGTH]

    @hook_impl
    def after_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """End the run of MLflow."""
        super().after_pipeline_run(run_params, pipeline, catalog)
        self.end("FINISHED")

    def end(self, status: str) -> None:
        """End the run with a status, as often as kedro-mlflow opened it: the next run would be logged into it."""
        while not self._already_active_mlflow and (run := mlflow.active_run()) and run.info.run_id == self.run_id:
            mlflow.end_run(status)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Log the scores of a leaderboard as metrics, and a report as an artefact."""
        if dataset_name not in ARTEFACTS or self.run_id is None or not self._is_mlflow_enabled:
            return
        found = {self.sanitize_param_name(name): value for name, value in metrics(dataset_name, data).items()}
        if found:
            mlflow.log_metrics(found, run_id=self.run_id)
        text = data.to_csv(index=False) if isinstance(data, pd.DataFrame) else str(data)
        mlflow.log_text(text, ARTEFACTS[dataset_name], run_id=self.run_id)


def in_project(uri: str, project: Path) -> str:
    """Return the address of a SQLite file, with a relative path taken from the project's directory."""
    return f"{SQLITE}{project / uri.removeprefix(SQLITE)}"


def metrics(dataset: str, table: Any) -> dict[str, float]:
    """Return the finite scores of a table under their metric names: `rao/rule_score`, `rao/gsm8k/accuracy`.

    Args:
        dataset: The table's name in the catalog.
        table: A table of `LeaderboardTable` or `BenchmarkScoreTable`; others have none.
    """
    if dataset == "leaderboard":
        found = {
            f"{row['method']}/{name}": value
            for row in table.to_dict("records")
            for name, value in row.items()
            if isinstance(value, numbers.Real)
        }
    elif dataset == "benchmark_scores":
        found = {
            f"{row['method']}/{row['benchmark']}/{row['metric']}": row["value"] for row in table.to_dict("records")
        }
    else:
        found = {}
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def _plain(value: Any) -> Any:
    """Return parameters as nested dictionaries, also where models are inside of dictionaries."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    return value


def _without_credentials(value: Any) -> Any:
    if isinstance(value, str):
        return QUERY.sub(r"\1=***", USER.sub("***@", value))
    if isinstance(value, Mapping):
        return {key: _without_credentials(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_credentials(part) for part in value]
    return value
