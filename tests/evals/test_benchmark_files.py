"""Files of benchmarks, wherever they lie."""

import gzip
import json

import pytest

from rao_kedro.errors import DataError
from rao_kedro.evals.benchmark_files import read_csv, read_json_rows

ROWS = [{"a": 1}, {"a": 2}]


def test_lists_and_lines_are_read_gzipped_or_not(tmp_path):
    (tmp_path / "list.json").write_text(json.dumps(ROWS))
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with gzip.open(tmp_path / "lines.jsonl.gz", "wt") as file:
        file.write((tmp_path / "lines.jsonl").read_text())
    for name in ("list.json", "lines.jsonl", "lines.jsonl.gz"):
        assert read_json_rows(str(tmp_path / name)) == ROWS
    (tmp_path / "table.csv").write_text("a\n1\n2\n")
    assert read_csv(str(tmp_path / "table.csv"))["a"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.json", None, "cannot be had .FileNotFoundError"),
        ("broken.json", "[{", "is not what its ending says"),
        ("object.json", "{}", "holds no list of objects"),
        ("words.jsonl", '"a"\n', "holds no list of objects"),
        ("plain.json.gz", "[]", "cannot be had .BadGzipFile"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=f"{name}.*{message}"):
        read_json_rows(str(tmp_path / name))
