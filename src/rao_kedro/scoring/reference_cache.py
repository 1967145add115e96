"""A cache of reference log-probs, keyed by the content they were computed from, so that no stale table is read.

The key does not depend on the rewards: another reward model reuses the table. Imports neither torch nor transformers.
"""

import logging
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rao_kedro.config.alignment import ReferenceParameters
from rao_kedro.config.specs import ScoringSpec
from rao_kedro.data.mapped_tables import map_table
from rao_kedro.errors import TrainingError
from rao_kedro.identity import Streamed, combined_hash, content_hash
from rao_kedro.progress import KEPT
from rao_kedro.shards import is_finished, mark_finished
from rao_kedro.workers import Workers, launch

logger = logging.getLogger(__name__)


def cached_reference_logprobs(
    model_dir: Path,
    groups_path: Path,
    parameters: ReferenceParameters,
    t0_length: int,
    workers: Workers,
    cache: Path,
) -> Path:
    """Return the path of the reference log-probs of a model on tokenised groups, a `ReferenceLogProbTable`.

    They are computed by a worker unless the cache holds them, unchanged since they were written.

    Args:
        model_dir: The reference model.
        groups_path: Parquet with `group_id`, `prompt_ids`, `response_ids`, and `learned` if it is there.
        parameters: Precision and batch size of the forward pass.
        t0_length: Tokens of the prefix t_0.
        workers: How the worker that computes them is started.
        cache: Directory of the cached tables.

    Returns:
        The file of the cache, which must stay there.
    """
    key = scoring_key(model_dir, groups_path, parameters.mixed_precision, t0_length)
    path, marker = cache / f"{key}.parquet", cache / f"{key}.finished.json"
    if is_finished(marker, key, [path]):
        logger.info("%s holds these log-probs already", path, extra=KEPT)
    else:
        spec = ScoringSpec(
            workspace=cache / "work",
            model_dir=model_dir,
            groups_path=groups_path,
            t0_length=t0_length,
            output_path=path,
            max_tokens_per_batch=parameters.max_tokens_per_batch,
            mixed_precision=parameters.mixed_precision,
        )
        launch(spec, workers)
        mark_finished(marker, key, [path])
    return path


def scoring_key(model_dir: Path, groups_path: Path, precision: str, t0_length: int) -> str:
    """Return a hash of everything reference log-probs depend on: weights, token ids, t_0, precision, this package."""
    table = map_table(groups_path)
    groups = table.select(["group_id", "prompt_ids", "response_ids"])
    if "learned" in table.column_names and table["learned"].null_count < len(table):
        groups = groups.append_column("learned", table["learned"])
    settings = precision, str(t0_length), version("rao_kedro")
    return combined_hash(content_hash(model_dir), *map(_column_hash, groups.columns), *settings)


def _column_hash(column: pa.ChunkedArray) -> str:
    """Return a hash of a column's values, the same for any chunks and integer type that a writer chose."""
    lengths: list[bytes] = []
    chunks, of_values = column.chunks, column.type
    while pa.types.is_list(of_values) or pa.types.is_large_list(of_values):
        lengths.append(b"".join(_as_int64(pc.fill_null(pc.list_value_length(chunk), 0)) for chunk in chunks))
        chunks, of_values = [chunk.flatten() for chunk in chunks], of_values.value_type
    if not pa.types.is_integer(of_values):
        return combined_hash(*lengths, *(value for chunk in chunks for value in chunk.to_pylist()))
    values = Streamed(8 * sum(map(len, chunks)), map(_as_int64, chunks))
    return combined_hash(*lengths, values)


def _as_int64(values: pa.Array) -> bytes:
    return values.to_numpy().astype("int64").tobytes()


def refuse_stale(path: Path, key: str) -> None:
    """Refuse reference log-probs that were computed from other weights, tokens, t_0 or precision.

    Args:
        path: Table of `ReferenceLogProbTable`.
        key: The expected key, of `scoring_key`.

    Raises:
        TrainingError: The table has another key.
    """
    found = set(pq.read_table(path, columns=["key"]).column(0).unique().to_pylist())
    if found != {key}:
        raise TrainingError(
            f"the reference log-probs in {path} belong to other weights, tokens, t_0 or another precision "
            f"(key {', '.join(sorted(found))}, expected {key}): run the pipeline `alignment` from its node "
            "`score_reference` again"
        )
