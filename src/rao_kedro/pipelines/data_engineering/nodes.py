"""Nodes of data engineering."""

from pathlib import Path

import pandas as pd

from rao_kedro.files import alone_in_workspace
from rao_kedro.inference import GenerationSpec, generate
from rao_kedro.models.chat import load_chat_format
from rao_kedro.models.launch import import_model
from rao_kedro.preferences.groups import read_preferences
from rao_kedro.preferences.quarantine import NoGroupsLeftError
from rao_kedro.preferences.report import data_report
from rao_kedro.preferences.sampled import divide_prompts, rate_by_rules
from rao_kedro.preferences.splits import (
    divide_held_out,
    prompts_of_groups,
    quarantine_reported_prompts,
    require_every_part,
)
from rao_kedro.preferences.tokenize import TokenLimits, tokenize_groups
from rao_kedro.schemas.parameters import DataParameters
from rao_kedro.schemas.specs import ModelParameters


def prepare_base_model(model: ModelParameters, accelerate_config: Path | None, workspace: Path) -> Path:
    """Return a plain checkpoint of the base model."""
    return import_model(model, workspace, in_process=accelerate_config is None)


@alone_in_workspace
def collect_preferences(
    data: DataParameters, prompts: pd.DataFrame, base_model: Path, accelerate_config: Path | None, workspace: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sample and rate responses, or read preference data.

    Returns:
        Tables of `PreferenceGroups` and `QuarantinedRows`.
    """
    if data.source == "preferences":
        assert data.preferences is not None
        return read_preferences(data.preferences)
    assert data.sampled is not None
    chosen = divide_prompts(prompts, data.sampled, data.evaluation_prompts, load_chat_format(base_model)).to_sample
    chosen.to_parquet(workspace / "prompts.parquet")
    spec = GenerationSpec(
        model_dir=base_model,
        prompts_path=workspace / "prompts.parquet",
        output_path=workspace / "generations.parquet",
        **data.sampled.generation.model_dump(),
    )
    generations = pd.read_parquet(generate(spec, in_process=accelerate_config is None))
    return rate_by_rules(chosen, generations)


def tokenize(
    preference_groups: pd.DataFrame,
    unreadable_rows: pd.DataFrame,
    prompts: pd.DataFrame,
    base_model: Path,
    data: DataParameters,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Tokenise the groups, and divide them into what is trained on, evaluated on in training, and reported.

    Returns:
        Tables of `TokenizedGroups`, `EvaluationPrompts` and `QuarantinedRows` (of reading and of tokenising), and the
        data report.

    Raises:
        NoGroupsLeftError: A part has no group left; says why rows were dropped.
    """
    chat = load_chat_format(base_model)
    limits = TokenLimits(data.max_prompt_tokens, data.max_response_tokens, data.t0_length)
    try:
        tokenized, dropped = tokenize_groups(preference_groups, chat, limits, data.pairing, data.seed)
    except NoGroupsLeftError as error:
        raise error.with_earlier(unreadable_rows) from error
    if data.source == "preferences":
        assert data.preferences is not None
        if data.preferences.validation is None:
            tokenized = divide_held_out(tokenized, data.evaluation_prompts)
        sources = dict(zip(preference_groups["group_id"], preference_groups["source"], strict=True))
        tokenized, leaked = quarantine_reported_prompts(tokenized, sources)
        dropped = pd.concat([dropped, leaked], ignore_index=True)
        evaluation = prompts_of_groups(tokenized, data.evaluation_prompts)
    else:
        assert data.sampled is not None
        evaluation = divide_prompts(prompts, data.sampled, data.evaluation_prompts, chat).evaluation
    quarantined = pd.concat([unreadable_rows, dropped], ignore_index=True)
    require_every_part(tokenized, data.source, quarantined)
    report = data_report(preference_groups, quarantined, tokenized, evaluation, chat.tokenizer, data.t0_length)
    return tokenized, evaluation, quarantined, report
