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
from rao_kedro.preferences.sampled import evaluation_prompts, prompts_of_groups, prompts_to_sample, rate_by_rules
from rao_kedro.preferences.tokenize import TokenLimits, tokenize_groups
from rao_kedro.schemas.parameters import DataParameters
from rao_kedro.schemas.specs import ModelParameters


def prepare_base_model(model: ModelParameters, accelerate_config: Path | None, workspace: Path) -> Path:
    """Return a plain checkpoint of the base model."""
    return import_model(model, workspace, in_process=accelerate_config is None)


@alone_in_workspace
def collect_preferences(
    data: DataParameters, prompts: pd.DataFrame, base_model: Path, accelerate_config: Path | None, workspace: Path
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Sample and rate responses, or read preference data.

    Returns:
        Tables of `PreferenceGroups`, `QuarantinedRows` and `EvaluationPrompts`.
    """
    if data.source == "preferences" and data.preferences is not None:
        groups, unreadable = read_preferences(data.preferences)
        chat = load_chat_format(base_model)
        return groups, unreadable, prompts_of_groups(groups, data.evaluation_prompts, chat, data.max_prompt_tokens)
    assert data.sampled is not None
    chosen = prompts_to_sample(prompts, data.sampled.train_prompts, data.sampled.test_prompts)
    chosen.to_parquet(workspace / "prompts.parquet")
    spec = GenerationSpec(
        model_dir=base_model,
        prompts_path=workspace / "prompts.parquet",
        output_path=workspace / "generations.parquet",
        **data.sampled.generation.model_dump(),
    )
    generations = pd.read_parquet(generate(spec, in_process=accelerate_config is None))
    groups, unreadable = rate_by_rules(chosen, generations)
    return groups, unreadable, evaluation_prompts(prompts, data.sampled.test_prompts, data.evaluation_prompts)


def tokenize(
    preference_groups: pd.DataFrame, unreadable_rows: pd.DataFrame, base_model: Path, data: DataParameters
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Tokenise the groups.

    Returns:
        Tables of `TokenizedGroups` and `QuarantinedRows` (of reading and of tokenising), and the data report.

    Raises:
        NoGroupsLeftError: A split has no group left; says why rows were dropped.
    """
    chat = load_chat_format(base_model)
    limits = TokenLimits(data.max_prompt_tokens, data.max_response_tokens, data.t0_length)
    try:
        tokenized, dropped = tokenize_groups(preference_groups, chat, limits, data.pairing, data.seed)
    except NoGroupsLeftError as error:
        raise error.with_earlier(unreadable_rows) from error
    quarantined = pd.concat([unreadable_rows, dropped], ignore_index=True)
    report = data_report(preference_groups, quarantined, tokenized, chat.tokenizer, data.t0_length)
    return tokenized, quarantined, report
