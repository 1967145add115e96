"""Maps tables into memory: processes of one machine share their pages, and no row is a Python object before it is used.

Parquet is compressed, so it cannot be mapped. Beside a table of prompt groups, a hidden Arrow file of the same rows is
written once, in batches, for all processes and all later runs; token ids are int32 there, and masks of tokens uint8.
Imports neither torch nor transformers.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc

from rao_kedro.data.table_files import open_table, read_batches
from rao_kedro.files import replacing, waiting_for_others
from rao_kedro.identity import cached_hash

logger = logging.getLogger(__name__)

TOKENS = {
    "prompt_ids": pa.list_(pa.int32()),
    "response_ids": pa.list_(pa.list_(pa.int32())),
    "ids": pa.list_(pa.int32()),
}
LEFT_OUT = {"reward_transforms"}  # kilobytes, the same in every row: parquet holds them once
MASK = pa.list_(pa.uint8())  # bits cannot be viewed as a NumPy array
BATCH = 1024  # rows that are written together


def map_table(path: Path) -> pa.Table:
    """Return a table whose columns lie in a mapped file; token ids are int32, masks of tokens uint8.

    Columns that are the same in all rows (`LEFT_OUT`) are not in it.

    The file belongs to one content of the parquet file. Where it cannot be written, each process reads the table into
    memory of its own.

    Args:
        path: Parquet of prompt groups or conversations.
    """
    key = cached_hash(path).hex()[:16]
    mapped = path.with_name(f".{path.stem}.{key}.arrow")
    try:
        _write_once(path, mapped)
    except OSError as error:
        logger.warning("%s could not be written, so each process reads %s into its own memory: %s", mapped, path, error)
        schema, batches = _read(path)
        return pa.Table.from_batches(batches, schema)
    with pa.memory_map(str(mapped)) as file:
        return pa.ipc.open_file(file).read_all()


def _write_once(path: Path, mapped: Path) -> None:
    """Write the file that is mapped; the first of several processes does it. Files of other contents are removed."""
    if mapped.exists():
        return
    with waiting_for_others(path.with_name(f".{path.stem}.arrow.lock")):
        if mapped.exists():
            return
        schema, batches = _read(path)
        with replacing(mapped) as partial, pa.ipc.new_file(str(partial), schema) as file:
            for batch in batches:
                file.write_batch(batch)
        for other in {*path.parent.glob(f".{path.stem}.*.arrow")} - {mapped}:
            other.unlink(missing_ok=True)  # processes of this machine that have mapped it keep it


def _read(path: Path) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Return the schema and the rows, in batches, of the file that is mapped."""
    with open_table(path) as file:
        fields = [field for field in file.schema_arrow if field.name not in LEFT_OUT]
    schema = pa.schema([(field.name, _mapped_type(field)) for field in fields])
    return schema, (batch.cast(schema) for batch in read_batches(path, schema.names, batch=BATCH))


def _mapped_type(field: pa.Field) -> pa.DataType:
    if field.name == "learned" and not pa.types.is_null(field.type):
        return pa.list_(MASK) if pa.types.is_list(field.type.value_type) else MASK  # of responses, of a conversation
    return TOKENS.get(field.name, field.type)
