"""Nodes of data engineering."""

from pathlib import Path

import pandas as pd

from rao_kedro.config.data_engineering import ModelParameters, PreferenceFiles, SampledResponses
from rao_kedro.config.generation import GenerationSpec
from rao_kedro.config.specs import ModelImportSpec
from rao_kedro.config.workers import WorkerParameters
from rao_kedro.data.groups import read_preferences
from rao_kedro.data.quarantine import QuarantineFile
from rao_kedro.data.report import DataReport
from rao_kedro.data.sampled import divide_prompts, rate_by_rules
from rao_kedro.data.splits import EvaluationPrompts, require_every_part
from rao_kedro.data.table_files import count_values, require_room
from rao_kedro.data.tokenize import GroupTokenizer, Pairing, TokenLimits
from rao_kedro.data.tokenized_tables import divided_batches, tokenize_groups, write_groups
from rao_kedro.files import write_parquet
from rao_kedro.models.chat_format import load_chat_format
from rao_kedro.workers import launch


def prepare_base_model(model: ModelParameters, workers: WorkerParameters) -> Path:
    """Return a plain checkpoint of the base model."""
    return _import(model, workers.workspace("base_model"), workers)


def _import(model: ModelParameters, workspace: Path, workers: WorkerParameters) -> Path:
    spec = ModelImportSpec(model=model, output_dir=workspace / "model")
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
) -> tuple[Path, Path]:
    """Sample and rate responses, or read preference data.

    Returns:
        Paths of tables of `PreferenceGroupTable` and `QuarantineTable`.
    """
    with workers.reserve("collection") as workspace:
        if source == "preferences":
            assert preferences is not None
            return read_preferences(preferences, workspace)
        assert sampled is not None
        chosen = divide_prompts(prompts, sampled, n_evaluation_prompts, load_chat_format(base_model)).to_sample
        model = base_model if sampled.model is None else _import(sampled.model, workspace / "sampler", workers)
        write_parquet(workspace / "prompts.parquet", chosen)
        spec = GenerationSpec(
            model_dir=model,
            prompts_path=workspace / "prompts.parquet",
            output_path=workspace / "generations.parquet",
            **sampled.generation.model_dump(),
        )
        launch(spec, workers)
        return rate_by_rules(chosen, spec.output_path, load_chat_format(model).end_of_turn_ids, workspace)


def tokenize(
    preference_groups: Path,
    unreadable_rows: Path,
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
    num_proc: int,
    workers: WorkerParameters,
) -> tuple[Path, pd.DataFrame, Path, pd.DataFrame]:
    """Tokenise the groups, and divide them into the splits train, validation and test.

    Returns:
        Path of a table of `TokenizedGroupTable`, table of `EvaluationPromptTable`, path of a table of `QuarantineTable`
        (of reading and of tokenising), and the data report.

    Raises:
        NoGroupsLeftError: A split has no group left; says why rows were dropped.
    """
    chat = load_chat_format(base_model)
    tokenizer = GroupTokenizer(chat, TokenLimits(max_prompt_tokens, max_response_tokens, t0_length), pairing, seed)
    divided = source == "preferences" and preferences is not None and preferences.validation is None
    report, reported = DataReport(), EvaluationPrompts(n_evaluation_prompts)
    with workers.reserve("tokenizing") as workspace:
        table = workspace / "tokenized_groups.parquet"
        # Measured: parts and table are 3.8 times as large as the groups' text, all of which they hold twice.
        require_room(workspace, 3 * preference_groups.stat().st_size, "tokenising")
        with QuarantineFile(workspace / "quarantined_rows.parquet") as quarantine:
            quarantine.write_table(unreadable_rows)
            parts = tokenize_groups(preference_groups, workspace, tokenizer, quarantine, num_proc)
            batches = divided_batches(parts, n_evaluation_prompts if divided else None, quarantine)
            for batch in write_groups(table, batches):
                report.take(batch)
                reported.take(batch)
        parts.remove()
    parts.require_groups(quarantine)
    require_every_part(report.counts, source, quarantine.reasons, quarantine.path)
    if source == "preferences":
        evaluation = reported.table()
    else:
        assert sampled is not None
        evaluation = divide_prompts(prompts, sampled, n_evaluation_prompts, chat).evaluation
    read = count_values(preference_groups, ["split", "rated_by"])
    lines = report.table(read, quarantine.reasons, len(evaluation), chat.tokenizer, t0_length)
    return table, evaluation, quarantine.path, lines
