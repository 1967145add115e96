"""Model cards of aligned policies, in the hub's metadata format."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader

from rao_kedro.config.alignment import MethodParameters
from rao_kedro.config.data_engineering import DataParameters, ModelParameters
from rao_kedro.config.publish import PublishParameters
from rao_kedro.config.reward_modeling import RewardModelingParameters
from rao_kedro.config.rounds import RoundsParameters
from rao_kedro.config.run_names import method_of
from rao_kedro.evals.leaderboard import BASELINE
from rao_kedro.identity import path_hash
from rao_kedro.reporting.report import headline

VERSIONS = ("rao_kedro", "torch", "transformers", "accelerate")
DATA_SECTIONS = ("read", "quarantined", "train groups")  # of the data report
# Columns of the leaderboard with their names in the card.
METRICS = {"rule_score": "rule score", "reward": "reward", "win_rate_vs_sft": "win rate against SFT"}
WITHOUT_INTERVAL = {
    "mean_length": "tokens per response",
    "cut": "share of responses cut at the token limit",
    "kl_to_reference": "KL to SFT, nats",
}


def model_card(
    run: str,
    model: ModelParameters,
    data: DataParameters,
    reward_modeling: RewardModelingParameters,
    method: MethodParameters,
    publish: PublishParameters,
    data_report: pd.DataFrame,
    training_log: pd.DataFrame,
    leaderboard: pd.DataFrame,
    reward_annotated: Path,
    benchmark_scores: pd.DataFrame | None = None,
) -> str:
    """Return the model card of a policy as Markdown with a YAML header.

    Args:
        run: The run's name.
        model: The base model.
        data: Where the prompt groups came from.
        reward_modeling: Where the rewards came from.
        method: The method.
        publish: Licence, languages and repository.
        data_report: The data report: columns `section, metric, value`.
        training_log: Of the run: one row per step and evaluation.
        leaderboard: The leaderboard; it has a row for the run's method and one for SFT.
        reward_annotated: Reward-annotated groups, whose content hash the card states.
        benchmark_scores: Scores on benchmarks, if any were measured.
    """
    name = method_of(run)
    rows = leaderboard.set_index("method", drop=False)
    ours, baseline = rows.loc[name].to_dict(), rows.loc[BASELINE].to_dict()
    sources = _sources(data)
    repository = publish.repository_of(run) or f"data/06_models/published/{run}"
    on_benchmarks = _benchmark_rows(benchmark_scores, name) if benchmark_scores is not None else []
    facts = [
        ("Base model", _code(model.name) + (f", revision {_code(model.revision)}" if model.revision else "")),
        ("Method", f"{method.objective}: {_settings(method.parameters)}{_log_z0(training_log)}"),
        ("Reference and start", "the base model after supervised fine-tuning (SFT)"),
        *_rounds(method.rounds),
        ("Reward", f"{reward_modeling.reward.name}; {_settings(_transforms(reward_modeling))}"),
        ("Versions", ", ".join(f"{package} {version(package)}" for package in VERSIONS)),
    ]
    template = Environment(
        loader=PackageLoader("rao_kedro.reporting"), autoescape=False, keep_trailing_newline=True
    ).get_template("model_card.md")
    return template.render(
        card_data=_metadata(run, model, data, publish, ours).to_yaml(),
        title=repository.split("/")[-1],
        summary=f"A language model aligned with {method.objective} by rao_kedro.",
        facts=facts,
        headline=headline(ours),
        method=name,
        results=_result_rows(ours, baseline),
        benchmarks=on_benchmarks,
        data=[
            *(("Source", source) for source in sources),
            *(
                (f"{row['section']}: {row['metric']}", str(row["value"]))
                for row in data_report.to_dict("records")
                if row["section"] in DATA_SECTIONS
            ),
            ("Hash of the reward-annotated groups", _code(path_hash(reward_annotated))),
        ],
        steps=int(training_log["step"].max()),
        parameters=yaml.safe_dump(method.model_dump(mode="json", exclude_none=True), sort_keys=False).strip(),
        repository=repository,
        seeds=", not over training seeds: one was trained" if ours["seeds"] == 1 else "",
    )


def _metadata(
    run: str, model: ModelParameters, data: DataParameters, publish: PublishParameters, row: Mapping[Any, Any]
) -> ModelCardData:
    on_hub = model.source == "checkpoint" and model.name.count("/") == 1 and not model.name.startswith((".", "/"))
    files = data.preferences if data.source == "preferences" else None
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type="held-out-prompts",
            dataset_name=f"{row['n']} held-out prompts",
            metric_type=column,
            metric_name=label,
            metric_value=round(float(row[column]), 4),
        )
        for column, label in METRICS.items()
        if pd.notna(row[column])
    ]
    return ModelCardData(
        base_model=model.name if on_hub else None,
        datasets=[files.train.hub_id] if files is not None and files.train.hub_id else None,
        eval_results=results,
        language=publish.language,
        library_name="transformers",
        license=publish.license,
        model_name=run,
        pipeline_tag="text-generation",
        tags=["rao_kedro", "alignment", "rlhf", method_of(run)],
    )


def _rounds(rounds: RoundsParameters | None) -> list[tuple[str, str]]:
    if rounds is None:
        return []
    prompts = "all training prompts" if rounds.prompts_per_round is None else f"{rounds.prompts_per_round} prompts"
    of_data = f", {rounds.offline_share:.0%} of them with responses of the data" if rounds.offline_share else ""
    moves = "; the reference of a round is the policy that it samples from" if rounds.reference == "previous" else ""
    sampled = f"{rounds.samples_per_prompt} responses of its own policy to each of {prompts}"
    return [("On-policy rounds", f"{rounds.n}, each on {sampled}{of_data}{moves}")]


def _sources(data: DataParameters) -> list[str]:
    if data.source == "sampled" or data.preferences is None:
        return ["responses sampled from the SFT model's base to shipped prompts, rated by the prompts' requirements"]
    files = (data.preferences.train, data.preferences.test)
    return [f"{_code(file.hub_id or file.path)}, split {file.split}" for file in files if file is not None]


def _result_rows(ours: Mapping[Any, Any], baseline: Mapping[Any, Any]) -> list[list[str]]:
    rows = []
    for column, label in METRICS.items():
        if pd.isna(ours[column]):
            continue
        gain = "" if f"{column}_gain" not in ours else _with_interval(ours, f"{column}_gain", sign="+")
        n = ours["n_judged"] if column.startswith("win_rate") else ours[f"n_{column}"]
        of_baseline = "" if column.endswith(f"vs_{BASELINE}") else _with_interval(baseline, column)
        rows.append([label, str(n), _with_interval(ours, column), gain, of_baseline])
    for column, label in WITHOUT_INTERVAL.items():
        if column in ours and pd.notna(ours[column]):
            rows.append([label, str(ours["n"]), f"{ours[column]:.3g}", "", f"{baseline[column]:.3g}"])
    return rows


def _benchmark_rows(scores: pd.DataFrame, method: str) -> list[list[str]]:
    return [
        [
            row["benchmark"],
            row["metric"],
            str(row["n"]),
            _with_interval(row, "value", digits=2),
            _with_interval(row, "vs_sft", sign="+", digits=2),
            row["judge"],
        ]
        for row in scores[scores["method"] == method].to_dict("records")
    ]


def _with_interval(row: Mapping[Any, Any], column: str, sign: str = "", digits: int = 3) -> str:
    value = row[column]
    if pd.isna(value):
        return ""
    low, high = ("low", "high") if column == "value" else (f"{column}_low", f"{column}_high")
    interval = "" if pd.isna(row[low]) else f" [{row[low]:.{digits}f}, {row[high]:.{digits}f}]"
    return f"{value:{sign}.{digits}f}{interval}"


def _transforms(reward_modeling: RewardModelingParameters) -> dict[str, Any]:
    """Return the transforms between raw rewards and those of the training that are switched on, in their order."""
    names = ("length_penalty", "clip", "normalisation")
    return {name: value for name in names if (value := getattr(reward_modeling, name)) or name == "normalisation"}


def _settings(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in parameters.items()) or "its defaults"


def _log_z0(training_log: pd.DataFrame) -> str:
    """Return log Z before the first update, which is log_z0 (also where it was solved from the rewards)."""
    if "eval_log_z" not in training_log:
        return ""
    return f" (log Z before the first update: {training_log['eval_log_z'].dropna().iloc[0]:.3f} nats)"


def _code(text: object) -> str:
    return f"`{text}`"
