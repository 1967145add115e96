"""Nodes of data engineering."""

from pathlib import Path

import pandas as pd

from rao_kedro.inference import GenerationSpec, generate
from rao_kedro.models.chat import load_tokenizer
from rao_kedro.models.launch import import_model
from rao_kedro.preferences.groups import read_preferences
from rao_kedro.preferences.report import data_report
from rao_kedro.preferences.sampled import evaluation_prompts, prompts_of_groups, prompts_to_sample, rate_by_rules
from rao_kedro.preferences.tokenize import Pairing, TokenLimits, tokenize_groups
from rao_kedro.schemas.parameters import PreferenceFiles, SampledResponses
from rao_kedro.schemas.specs import ModelParameters


def prepare_base_model(model: ModelParameters, accelerate_config: Path | None, workspace: Path) -> Path:
    """Return a plain checkpoint of the base model."""
    return import_model(model, workspace, in_process=accelerate_config is None)


def collect_preferences(
    source: str,
    sampled: SampledResponses | None,
    preferences: PreferenceFiles | None,
    n_evaluation_prompts: int,
    max_prompt_tokens: int,
    prompts: pd.DataFrame,
    base_model: Path,
    accelerate_config: Path | None,
    workspace: Path,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Sample and rate responses, or read preference data.

    Returns:
        Tables of `PreferenceGroups`, `QuarantinedRows` and `EvaluationPrompts`.
    """
    if source == "preferences" and preferences is not None:
        groups, unreadable = read_preferences(preferences)
        tokenizer = load_tokenizer(base_model)
        return groups, unreadable, prompts_of_groups(groups, n_evaluation_prompts, tokenizer, max_prompt_tokens)
    assert sampled is not None
    chosen = prompts_to_sample(prompts, sampled.train_prompts, sampled.test_prompts)
    chosen.to_parquet(workspace / "prompts.parquet")
    spec = GenerationSpec(
        model_dir=base_model,
        prompts_path=workspace / "prompts.parquet",
        output_path=workspace / "generations.parquet",
        **sampled.generation.model_dump(),
    )
    generations = pd.read_parquet(generate(spec, in_process=accelerate_config is None))
    groups, unreadable = rate_by_rules(chosen, generations)
    return groups, unreadable, evaluation_prompts(prompts, sampled.test_prompts, n_evaluation_prompts)


def tokenize(
    preference_groups: pd.DataFrame,
    unreadable_rows: pd.DataFrame,
    base_model: Path,
    max_prompt_tokens: int,
    max_response_tokens: int,
    t0_length: int,
    pairing: Pairing,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Tokenise the groups.

    Returns:
        Tables of `TokenizedGroups` and `QuarantinedRows` (of reading and of tokenising), and the data report.
    """
    tokenizer = load_tokenizer(base_model)
    limits = TokenLimits(max_prompt_tokens, max_response_tokens, t0_length)
    tokenized, dropped = tokenize_groups(preference_groups, tokenizer, limits, pairing, seed)
    quarantined = pd.concat([unreadable_rows, dropped], ignore_index=True)
    return tokenized, quarantined, data_report(preference_groups, quarantined, tokenized, tokenizer, t0_length)
