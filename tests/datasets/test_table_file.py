"""Tables whose paths nodes pass on: moved to their place, read from anywhere, checked batch by batch."""

import json

import fsspec
import pandas as pd
import pyarrow as pa
import pytest
from kedro.io import DataCatalog, DatasetError
from kedro.validation import DataValidationError
from pandera.errors import SchemaErrors

from rao_kedro.data import table_files
from rao_kedro.data.table_files import TableWriter, count_rows, read_rows
from rao_kedro.datasets import TableFileDataset, TableFileValidator
from rao_kedro.errors import DataError

QUARANTINE = "rao_kedro.data.tables.QuarantineTable"
SCHEMA = pa.schema(dict.fromkeys(("source", "reason", "detail", "row"), pa.string()))


def write(path, n, **changes):
    with TableWriter(path, SCHEMA) as writer:
        writer.write_rows({"source": str(i), "reason": "a", "detail": "", "row": "{}"} | changes for i in range(n))
    return path


@pytest.fixture(params=["file", "memory"])
def place(request, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fsspec.filesystem("memory").store.clear()
    return f"{tmp_path}/data/table.parquet" if request.param == "file" else "memory://bucket/table_file.parquet"


def test_a_finished_table_is_moved_there_and_its_path_is_loaded(place, tmp_path):
    dataset = TableFileDataset(filepath=place)
    assert not dataset.exists()
    for n in (3, 2):
        dataset.save(write(tmp_path / "work/table.parquet", n))
        assert dataset.exists() and [row["source"] for row in read_rows(dataset.load())] == ["0", "1", "2"][:n]
        assert not (tmp_path / "work/table.parquet").exists()
    preview = dataset.preview(nrows=1)
    assert preview["columns"] == SCHEMA.names and preview["data"] == [["0", "a", "", "{}"]]


def test_what_is_no_table_is_refused_and_the_old_table_stays(place, tmp_path):
    dataset = TableFileDataset(filepath=place)
    dataset.save(write(tmp_path / "work/table.parquet", 1))
    (tmp_path / "half").write_text(json.dumps({}))
    for bad in (tmp_path / "half", tmp_path / "absent"):
        with pytest.raises(DatasetError, match="cannot be saved"):
            dataset.save(bad)
    assert count_rows(dataset.load()) == 1


def test_a_table_may_be_saved_where_it_is_and_through_a_link(tmp_path):
    (tmp_path / "link.parquet").symlink_to(write(tmp_path / "disk/table.parquet", 1))
    dataset = TableFileDataset(filepath=str(tmp_path / "link.parquet"))
    dataset.save(dataset.load())
    dataset.save(write(tmp_path / "work/table.parquet", 2))
    assert (tmp_path / "link.parquet").is_symlink() and count_rows(tmp_path / "disk/table.parquet") == 2


def catalog_of(path, **validator):
    entry = {
        "type": "rao_kedro.datasets.TableFileDataset",
        "filepath": str(path),
        "validator": {"class": "rao_kedro.datasets.TableFileValidator", "options": {"table": QUARANTINE}, **validator},
    }
    return DataCatalog.from_config({"table": entry})


def test_kedro_checks_the_schema_when_it_saves_and_when_it_loads(tmp_path):
    catalog = catalog_of(tmp_path / "data/table.parquet")
    catalog.save("table", write(tmp_path / "table.parquet", 3))
    assert count_rows(catalog.load("table")) == 3
    with pytest.raises(DataValidationError):
        catalog.save("table", write(tmp_path / "table.parquet", 1, reason=None))
    assert count_rows(catalog.load("table")) == 3
    pd.DataFrame({"source": ["a"]}).to_parquet(tmp_path / "data/table.parquet")
    with pytest.raises(DataValidationError):
        catalog.load("table")


def test_an_empty_table_has_a_schema_too(tmp_path):
    validator = TableFileValidator(QUARANTINE)
    assert validator.validate(write(tmp_path / "table.parquet", 0))
    pd.DataFrame({"source": pd.Series(dtype="str")}).to_parquet(tmp_path / "table.parquet")
    with pytest.raises(SchemaErrors):
        validator.validate(tmp_path / "table.parquet")


def test_a_value_that_must_be_unique_is_found_in_another_batch(tmp_path):
    schema = pa.schema(
        {
            "prompt_id": pa.string(),
            "messages": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
            "requirements": pa.string(),
        }
    )
    validator = TableFileValidator("rao_kedro.data.tables.EvaluationPromptTable")
    for last, fits in (("x", True), ("3", False)):
        with TableWriter(tmp_path / "table.parquet", schema) as writer:
            for name in [*map(str, range(600)), last]:
                writer.write({"prompt_id": name, "messages": [], "requirements": "[]"})
        if fits:
            validator.validate(writer.path)
        else:
            with pytest.raises(DataError, match="prompt_id 3 occurs twice"):
                validator.validate(writer.path)


def test_a_table_that_was_checked_is_read_again_only_after_it_changed(tmp_path, monkeypatch):
    validator, path = TableFileValidator(QUARANTINE), write(tmp_path / "table.parquet", 2)
    validator.validate(path)
    moved = path.rename(tmp_path / "moved.parquet")
    with monkeypatch.context() as patched:
        patched.setattr("rao_kedro.datasets.table_file.read_batches", None)
        assert validator.validate(moved) == moved
    with pytest.raises(SchemaErrors):
        validator.validate(write(moved, 2, detail=None))
    assert table_files.count_rows(moved) == 2
