"""Files and folders as people have them: what they are called, compressed, encoded, split; and rows that are broken."""

import bz2
import csv
import gzip
import io
import json
import lzma

import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict

from rao_kedro.config.data_engineering import PreferenceSource
from rao_kedro.data.readers import read_rows
from rao_kedro.errors import DataError

ROWS = [{"prompt": f"Hi {i}?", "chosen": "größer", "rejected": "bad"} for i in range(3)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def csv_text(delimiter=","):
    text = io.StringIO()
    writer = csv.DictWriter(text, list(ROWS[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue()


def read(path, **options):
    return list(read_rows(PreferenceSource(path=str(path), **options)))


def contents(path, **options):
    return [row.content for row in read(path, **options)]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("bom.jsonl", LINES.encode("utf-8-sig")),
        ("bom.json", json.dumps(ROWS).encode("utf-8-sig")),
        ("bom.csv", csv_text().encode("utf-8-sig")),
        ("utf16.csv", csv_text().encode("utf-16")),
        ("semicolons.csv", csv_text(";").encode()),
        ("tabs.tsv", csv_text("\t").encode()),
        ("lines.json", LINES.encode()),
        ("list.jsonl", json.dumps(ROWS, indent=1).encode()),
        ("list_in_one_line.jsonl", json.dumps(ROWS).encode()),
        ("under_a_key.json", json.dumps({"version": 1, "data": ROWS}, indent=2).encode()),
        ("under_a_key_in_one_line.json", json.dumps({"rows": ROWS}).encode()),
        ("splits.json", json.dumps({"train": ROWS, "test": ROWS[:1]}).encode()),
        ("lines.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("lines.jsonl.bz2", bz2.compress(LINES.encode())),
        ("lines.json.xz", lzma.compress(LINES.encode())),
        ("lines.jsonl.zst", pa.Codec("zstd").compress(LINES.encode(), asbytes=True)),
        ("UPPER.JSONL", LINES.encode()),
        ("no_newline.jsonl", LINES.rstrip("\n").encode()),
        ("blank_lines.jsonl", ("\n" + LINES.replace("\n", "\r\n\r\n")).encode()),
    ],
)
def test_the_same_rows_however_a_file_is_called_and_encoded(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    found = read(tmp_path / name)
    assert [row.content for row in found] == ROWS
    assert [row.source for row in found] == [f"{name}:{i}" for i in (1, 2, 3)]


def test_one_row_is_a_row(tmp_path):
    for name in ("a.jsonl", "b.csv"):
        text = json.dumps(ROWS[0]) if name == "a.jsonl" else "\n".join(csv_text().splitlines()[:2])
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert contents(tmp_path / name) == ROWS[:1]
    (tmp_path / "empty.jsonl").write_text("")
    assert contents(tmp_path / "empty.jsonl") == []


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_arrow_files_are_read(tmp_path, kind):
    table, path = pa.Table.from_pylist(ROWS), tmp_path / "data-00000-of-00001.arrow"
    new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
        writer.write_table(table)
    assert contents(path) == ROWS


def test_a_folder_of_save_to_disk_is_read_by_split(tmp_path):
    rows = Dataset.from_list(ROWS)
    rows.save_to_disk(tmp_path / "one")
    DatasetDict({"train": rows, "held_out": rows.select([2])}).save_to_disk(tmp_path / "two")
    assert [row.source for row in read(tmp_path / "one")] == ["one:1", "one:2", "one:3"]
    assert contents(tmp_path / "two") == ROWS
    assert [(row.source, row.content) for row in read(tmp_path / "two", split="held_out")] == [
        ("two/held_out:1", ROWS[2])
    ]
    with pytest.raises(DataError, match=r"two has no split 'test': its splits are train, held_out; set `split`"):
        read(tmp_path / "two", split="test")


def test_a_snapshot_of_the_hub_is_read_by_split(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README.md").write_text("# Data")
    (tmp_path / "dataset_infos.json").write_text('{"default": {}}')
    for i, name in enumerate(
        ["train_prefs-00000-of-00002", "train_prefs-00001-of-00002", "test_prefs-00000-of-00001-0a1b"]
    ):
        pd.DataFrame([ROWS[i]]).to_parquet(tmp_path / f"data/{name}.parquet")
    (tmp_path / ".cache/x.jsonl").write_text("{}\n")
    (tmp_path / "data/._x.jsonl").write_bytes(b"\x00\x05\x16\x07")
    found = read(tmp_path, split="train_prefs")
    assert [row.content for row in found] == ROWS[:2]
    assert found[1].source == "data/train_prefs-00001-of-00002.parquet:1"
    with pytest.raises(DataError, match=r"no files of split 'train': its splits are test_prefs, train_prefs"):
        read(tmp_path)


def test_files_that_are_called_like_splits_are_splits_and_others_are_read_together(tmp_path):
    for folder, names in {"splits": ("train", "test"), "parts": ("a", "b"), "alone": ("test",)}.items():
        (tmp_path / folder).mkdir()
        for i, name in enumerate(names):
            (tmp_path / folder / f"{name}.jsonl").write_text(json.dumps(ROWS[i]))
    assert contents(tmp_path / "splits") == ROWS[:1] and contents(tmp_path / "splits", split="test") == [ROWS[1]]
    assert contents(tmp_path / "parts") == ROWS[:2]
    with pytest.raises(DataError, match=r"files of split 'test' are unknown: a\.jsonl, b\.jsonl"):
        read(tmp_path / "parts", split="test")
    assert contents(tmp_path / "alone") == ROWS[:1]
    with pytest.raises(DataError, match="its splits are test"):
        read(tmp_path / "alone", split="train")


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("helpful-base.train", "helpful-base.test"),
        ("prefs_train", "prefs_test"),
        ("training", "testing"),
        ("v1.0-train", "v1.0-test"),
    ],
)
def test_a_split_is_known_by_a_word_of_a_files_name(tmp_path, train, test):
    for i, name in enumerate((train, test)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(ROWS[i]))
    assert contents(tmp_path, split="train") == ROWS[:1] and contents(tmp_path, split="test") == [ROWS[1]]


def test_hidden_files_are_left_out_and_the_home_directory_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "prefs").mkdir()
    (tmp_path / "prefs/rows.jsonl").write_text(LINES, encoding="utf-8")
    (tmp_path / "prefs/._rows.jsonl").write_bytes(b"\x00\x05")
    (tmp_path / "prefs/.DS_Store").write_bytes(b"\x00")
    (tmp_path / "prefs/config.json").write_text('{"a": 1}')
    assert contents("~/prefs") == contents("~/prefs/rows.jsonl") == ROWS


def test_a_field_of_a_csv_may_be_long(tmp_path):
    row = {"prompt": "x" * 200_000, "chosen": "a\n,b", "rejected": "c"}
    pd.DataFrame([row]).to_csv(tmp_path / "rows.csv", index=False)
    assert contents(tmp_path / "rows.csv") == [row]


@pytest.mark.parametrize(
    ("name", "data", "sources", "problem"),
    [
        ("bad.jsonl", b'{"a": 1}\nno\n{"a": 2}\n', [2], "not a JSON object"),
        ("bad_first.jsonl", b'{no\n{"a": 1}\n{"a": 2}\n', [1], "not a JSON object"),
        ("list.jsonl", b'[1]\n{"a": 1}\n{"a": 2}\n', [1], "not a JSON object"),
        ("deep.jsonl", b'{"a": 1}\n' + b"[" * 100_000 + b'\n{"a": 2}\n', [2], "not a JSON object"),
        ("digits.jsonl", b'{"a": 1}\n{"a": ' + b"9" * 5000 + b'}\n{"a": 2}\n', [2], "not a JSON object"),
        ("numbers.json", b'[{"a": 1}, 7, {"a": 2}]', [2], "not a JSON object"),
        ("long.csv", b"a\n1\n2,3\n2\n", [2], "2 fields end in line 3, the header has 1"),
        ("quotes.csv", b'a,b\n1,2\n"x"y,2\n2,3\n', [2], "is not CSV"),
        ("open.csv", b'a,b\n1,2\n2,3\n"x,2\n', [3], "is not CSV"),
    ],
)
def test_a_broken_row_is_one_broken_row(tmp_path, name, data, sources, problem):
    (tmp_path / name).write_bytes(data)
    rows = read(tmp_path / name)
    bad = [row for row in rows if isinstance(row.content, str)]
    assert [row.source for row in bad] == [f"{name}:{number}" for number in sources]
    assert problem in bad[0].problem
    assert [str(row.content["a"]) for row in rows if isinstance(row.content, dict)] == ["1", "2"]


def test_bytes_that_are_not_utf8_stay_in_their_row(tmp_path):
    (tmp_path / "rows.csv").write_bytes("prompt\ngut\nsch\u00f6n\n".encode("latin-1"))
    assert contents(tmp_path / "rows.csv") == [{"prompt": "gut"}, {"prompt": "sch\udcf6n"}]
    text = pa.array([b"good", b"sch\xf6n"], pa.binary()).cast(pa.string(), safe=False)
    table = pa.Table.from_arrays([pa.Array.from_buffers(pa.string(), 2, text.buffers())], ["prompt"])
    pa.parquet.write_table(table, tmp_path / "rows.parquet")
    good, bad = read(tmp_path / "rows.parquet")
    assert good.content == {"prompt": "good"} and "cannot be read" in bad.problem


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"prompt": {"0": "a"}, "chosen": {"0": "b"}}, r"to_json\(orient='records'\)"),
        ({"a": ROWS, "b": ROWS}, "under 'train', the split"),
        ([1, 2], "one list of objects"),
    ],
)
def test_json_that_is_no_list_of_rows_says_what_to_do(tmp_path, value, message):
    (tmp_path / "rows.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match=f"rows.json: .*{message}"):
        read(tmp_path / "rows.json")


@pytest.mark.parametrize("name", ["rows.jsonl.bz2", "rows.csv.xz", "rows.jsonl.zst", "rows.arrow"])
def test_a_file_that_is_not_what_its_ending_says_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"no such thing, though long enough to look like one")
    with pytest.raises(DataError, match=f"{name} does not have the format of its extension"):
        read(tmp_path / name)
