"""A reader sees the old thing or the new one, wherever the writer ends."""

import os
import signal
import subprocess
import sys

import pandas as pd
import pytest

from rao_kedro.files import beside, replace_directory, write_parquet, write_text


def test_a_writer_that_is_killed_leaves_the_old_file(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("old")
    code = f"""
from pathlib import Path
from rao_kedro.files import replacing
with replacing(Path({str(path)!r})) as partial, partial.open("w") as file:
    while True:
        file.write("new" * 1000)
        file.flush()
        print("writing", flush=True)
"""
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert path.read_text() == "old"
    [left] = [found for found in tmp_path.iterdir() if found != path]
    assert left.name.startswith(".")  # hidden: neither a partition nor part of what an artefact is


@pytest.mark.parametrize("write", [lambda path: write_text(path, "new"), lambda path: write_parquet(path, FRAME)])
def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch, write):
    path = tmp_path / "deeper/file"
    write(path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        write(path)
    assert path.read_bytes() == before and [*path.parent.iterdir()] == [path]


FRAME = pd.DataFrame({"x": [1, 2]})


def test_what_a_link_points_to_is_replaced_and_the_link_stays(tmp_path):
    for name in ("disk/rao", "new"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(name)
    (tmp_path / "disk/file").write_text("old")
    (tmp_path / "rao").symlink_to(tmp_path / "disk/rao")
    (tmp_path / "file").symlink_to(tmp_path / "disk/file")
    for text in ("first", "second"):  # the second one found a link called rao.old in its way
        partial = beside(tmp_path / "rao", "partial")
        assert partial == tmp_path / "disk/rao.partial"  # on the file system of the target, where it can be renamed
        partial.mkdir()
        (partial / "config.json").write_text(text)
        replace_directory(partial, tmp_path / "rao")
        write_text(tmp_path / "file", text)
        assert (tmp_path / "rao").is_symlink() and (tmp_path / "disk/rao/config.json").read_text() == text
        assert (tmp_path / "file").is_symlink() and (tmp_path / "disk/file").read_text() == text
    assert {path.name for path in tmp_path.rglob("*")} == {"disk", "rao", "file", "new", "config.json"}
