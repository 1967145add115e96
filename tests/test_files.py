"""A reader sees the old thing or the new one, wherever the writer ends."""

import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from rao_kedro import files
from rao_kedro.files import beside, replace_directory, replacing_directory, write_parquet, write_text


def test_a_writer_that_is_killed_leaves_the_old_file(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("old")
    code = f"""
from concurrent.futures import ThreadPoolExecutor
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


def test_the_directory_that_a_link_points_to_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "disk/rao").mkdir(parents=True)
    (tmp_path / "rao").symlink_to(tmp_path / "disk/rao")
    for text in ("first", "second"):  # the second one found a link called rao.old in its way
        partial = beside(tmp_path / "rao", "partial")
        assert partial == tmp_path / "disk/rao.partial"  # on the file system of the target, where it can be renamed
        partial.mkdir()
        (partial / "config.json").write_text(text)
        replace_directory(partial, tmp_path / "rao")
        assert (tmp_path / "rao").is_symlink() and (tmp_path / "disk/rao/config.json").read_text() == text
    assert {path.name for path in tmp_path.rglob("*")} == {"disk", "rao", "config.json"}


def test_who_replaces_a_directory_waits_for_the_one_before(tmp_path):
    target, filled = tmp_path / "policy", 40

    def write(text):
        with replacing_directory(target) as partial:
            for i in range(filled):
                (partial / str(i)).write_text(text)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, "abcdefgh" * 4))
    assert len({path.read_text() for path in target.iterdir()}) == 1 and len(list(target.iterdir())) == filled
    assert {path.name for path in tmp_path.iterdir()} == {"policy", ".policy.lock"}


def test_a_link_to_a_file_is_replaced_and_that_file_is_left_alone(tmp_path):
    """An imported checkpoint links to files of its original, some of which are changed in the import."""
    (tmp_path / "original.json").write_text("original")
    (tmp_path / "import.json").symlink_to(tmp_path / "original.json")
    write_text(tmp_path / "import.json", "changed")
    assert (tmp_path / "import.json").read_text() == "changed"
    assert (tmp_path / "original.json").read_text() == "original"


def test_files_are_written_through_this_module_or_into_a_directory_that_is_renamed_as_a_whole():
    writes = re.compile(
        r"\.write_(text|bytes|json|html|image)\(|\.to_(parquet|csv|json)\((?!index|\))|json\.dump\(|write_table\("
    )
    ours = re.compile(r"(?<![.\w])write_(text|parquet)\(")
    source = Path(files.__file__).parent
    found = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        if any(writes.search(ours.sub("", line)) for line in path.read_text().splitlines())
    }
    renamed = {"training/checkpoints.py", "evals/files.py", "evals/downstream/sources.py"}
    renamed.add("framework/context.py")  # into a temporary directory
    replaced = {"files.py", "scoring/forward.py", "evals/score_policy.py", "generation/worker.py"}
    assert found == renamed | replaced
