"""Tables written and read in batches: whole or not at all, with the schema's columns, and few rows in memory."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rao_kedro.data.table_files import (
    TableWriter,
    count_rows,
    count_values,
    read_batches,
    read_rows,
    require_room,
    rewrite,
)
from rao_kedro.errors import DataError

SCHEMA = pa.schema({"name": pa.string(), "ids": pa.list_(pa.int32())})


def write(path, n, batch=4):
    with TableWriter(path, SCHEMA, batch=batch) as writer:
        writer.write_rows({"name": f"row {i}", "ids": list(range(i))} for i in range(n))
    return path


@pytest.mark.parametrize("n", [0, 1, 4, 11])
def test_rows_come_back_in_their_order_and_batches_are_small(tmp_path, n):
    path = write(tmp_path / "new/table.parquet", n)
    assert [row["ids"] for row in read_rows(path)] == [list(range(i)) for i in range(n)]
    assert count_rows(path) == n and pq.read_schema(path) == SCHEMA
    assert all(batch.num_rows <= 3 for batch in read_batches(path, batch=3))
    assert all(batch.schema.names == ["name"] for batch in read_batches(path, ["name"]))


def test_only_the_rows_of_some_values_are_read_whether_or_not_their_column_is(tmp_path):
    path = write(tmp_path / "table.parquet", 6)
    for columns in (["ids"], ["ids", "name"]):
        rows = list(read_rows(path, columns, where=("name", ["row 2", "row 5", "row 9"])))
        assert [row["ids"] for row in rows] == [[0, 1], [0, 1, 2, 3, 4]] and list(rows[0]) == columns


def test_few_rows_are_in_memory_while_many_are_written(tmp_path):
    class Counted(dict):
        alive = most = 0

        def __init__(self, **row):
            super().__init__(row)
            Counted.alive += 1
            Counted.most = max(Counted.most, Counted.alive)

        def __del__(self):
            Counted.alive -= 1

    with TableWriter(tmp_path / "table.parquet", SCHEMA, batch=16) as writer:
        for i in range(1000):
            writer.write(Counted(name=str(i), ids=[i]))
    assert Counted.most <= 17 and writer.rows == 1000


def test_a_table_that_is_not_finished_leaves_the_old_one_and_nothing_else(tmp_path):
    path = write(tmp_path / "table.parquet", 3)
    with pytest.raises(RuntimeError), TableWriter(path, SCHEMA, batch=1) as writer:
        writer.write({"name": "new", "ids": []})
        raise RuntimeError("the middle")
    with pytest.raises(DataError, match="does not fit"), TableWriter(path, SCHEMA) as writer:
        writer.write({"name": "new", "ids": ["no number"]})
    assert count_rows(path) == 3 and [*tmp_path.iterdir()] == [path]


def test_a_row_with_other_columns_is_refused(tmp_path):
    with (
        pytest.raises(DataError, match="differ in the columns ids, idz"),
        TableWriter(tmp_path / "t", SCHEMA) as writer,
    ):
        writer.write({"name": "a", "idz": []})


def test_batches_are_written_between_rows_in_any_order_of_columns_and_with_types_that_fit(tmp_path):
    other = pa.table({"ids": pa.array([[7]], pa.list_(pa.int64())), "name": pa.array(["b"], pa.large_string())})
    with TableWriter(tmp_path / "table.parquet", SCHEMA) as writer:
        writer.write({"name": "a", "ids": []})
        writer.write_batch(other)
        writer.write_batch(other.slice(0, 0))
        writer.write({"name": "c", "ids": [1]})
    assert [row["name"] for row in read_rows(writer.path)] == ["a", "b", "c"] and writer.rows == 3


def test_a_table_is_rewritten_in_its_own_place(tmp_path):
    path = write(tmp_path / "table.parquet", 5, batch=9)
    assert rewrite(path, path, SCHEMA, lambda batch: batch.slice(1)) == 4
    assert [row["name"] for row in read_rows(path)] == ["row 1", "row 2", "row 3", "row 4"]


def test_what_is_no_table_and_columns_that_are_not_there_are_named(tmp_path):
    (tmp_path / "text").write_text("no table")
    with pytest.raises(DataError, match="text is not a parquet table"):
        count_rows(tmp_path / "text")
    with pytest.raises(DataError, match="has no column split; its columns are name, ids"):
        list(read_batches(write(tmp_path / "table.parquet", 1), where=("split", ["train"])))


def test_tables_that_do_not_fit_on_the_disk_are_refused_before_they_are_written(tmp_path):
    require_room(tmp_path, 1, "tokenising")
    with pytest.raises(DataError, match=r"GB free, and tokenising writes tables of 1000000\.0 GB at least: make room"):
        require_room(tmp_path, 1e15, "tokenising")


def test_values_are_counted_in_the_order_of_their_first_rows(tmp_path):
    with TableWriter(tmp_path / "table.parquet", pa.schema({"a": pa.string(), "b": pa.string()})) as writer:
        writer.write_rows({"a": a, "b": b} for a, b in ("yx", "zx", "yx"))
    assert list(count_values(writer.path, ["a", "b"]).items()) == [(("y", "x"), 2), (("z", "x"), 1)]
    assert count_values(writer.path, ["b"]) == {("x",): 3}
