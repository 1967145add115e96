"""Nodes of data engineering."""

from pathlib import Path

import pandas as pd

from rao_kedro.config.data_engineering import ModelParameters, PreferenceFiles, SampledResponses
from rao_kedro.config.generation import GenerationSpec
from rao_kedro.config.specs import ModelImportSpec
from rao_kedro.config.workers import WorkerParameters
from rao_kedro.data.groups import read_preferences
from rao_kedro.data.quarantine import NoGroupsLeftError
from rao_kedro.data.report import data_report
from rao_kedro.data.sampled import divide_prompts, rate_by_rules
from rao_kedro.data.splits import (
    divide_held_out,
    prompts_of_groups,
    quarantine_reported_prompts,
    require_every_part,
)
from rao_kedro.data.tokenize import Pairing, TokenLimits, tokenize_groups
from rao_kedro.files import write_parquet
from rao_kedro.models.chat_format import load_chat_format
from rao_kedro.workers import launch


def prepare_base_model(model: ModelParameters, workers: WorkerParameters) -> Path:
    """Return a plain checkpoint of the base model."""
    spec = ModelImportSpec(model=model, output_dir=workers.workspace("base_model") / "model")
    launch(spec, workers)
    return spec.output_dir


def collect_preferences(
    source: str,
    sampled: SampledResponses | None,
    preferences: PreferenceFiles | None,
    n_evaluation_prompts: int,
    prompts: pd.DataFrame,
    base_model: Path,
    workers: WorkerParameters,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sample and rate responses, or read preference data.

    Returns:
        Tables of `PreferenceGroupTable` and `QuarantineTable`.
    """
    if source == "preferences":
        assert preferences is not None
        return read_preferences(preferences)
    assert sampled is not None
    chat = load_chat_format(base_model)
    chosen = divide_prompts(prompts, sampled, n_evaluation_prompts, chat).to_sample
    with workers.reserve("collection") as workspace:
        write_parquet(workspace / "prompts.parquet", chosen)
        spec = GenerationSpec(
            model_dir=base_model,
            prompts_path=workspace / "prompts.parquet",
            output_path=workspace / "generations.parquet",
            **sampled.generation.model_dump(),
        )
        launch(spec, workers)
        generations = pd.read_parquet(spec.output_path)
    return rate_by_rules(chosen, generations, chat.end_of_turn_ids)


def tokenize(
    preference_groups: pd.DataFrame,
    unreadable_rows: pd.DataFrame,
    prompts: pd.DataFrame,
    base_model: Path,
    source: str,
    sampled: SampledResponses | None,
    preferences: PreferenceFiles | None,
    n_evaluation_prompts: int,
    max_prompt_tokens: int,
    max_response_tokens: int,
    t0_length: int,
    pairing: Pairing,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Tokenise the groups, and divide them into the splits train, validation and test.

    Returns:
        Tables of `TokenizedGroupTable`, `EvaluationPromptTable` and `QuarantineTable` (of reading and of tokenising),
        and the data report.

    Raises:
        NoGroupsLeftError: A split has no group left; says why rows were dropped.
    """
    chat = load_chat_format(base_model)
    limits = TokenLimits(max_prompt_tokens, max_response_tokens, t0_length)
    try:
        tokenized, dropped = tokenize_groups(preference_groups, chat, limits, pairing, seed)
    except NoGroupsLeftError as error:
        raise error.with_earlier(unreadable_rows) from error
    if source == "preferences":
        assert preferences is not None
        if preferences.validation is None:
            tokenized = divide_held_out(tokenized, n_evaluation_prompts)
        rows = dict(zip(preference_groups["group_id"], preference_groups["source"], strict=True))
        tokenized, leaked = quarantine_reported_prompts(tokenized, rows)
        dropped = pd.concat([dropped, leaked], ignore_index=True)
        evaluation = prompts_of_groups(tokenized, n_evaluation_prompts)
    else:
        assert sampled is not None
        evaluation = divide_prompts(prompts, sampled, n_evaluation_prompts, chat).evaluation
    quarantined = pd.concat([unreadable_rows, dropped], ignore_index=True)
    require_every_part(tokenized, source, quarantined)
    report = data_report(preference_groups, quarantined, tokenized, evaluation, chat.tokenizer, t0_length)
    return tokenized, evaluation, quarantined, report
