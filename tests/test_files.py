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
from rao_kedro.files import replacing_directory, write_parquet, write_text


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
    for text in ("first", "second"):
        with replacing_directory(tmp_path / "rao") as partial:
            assert partial.parent == tmp_path / "disk"  # the file system of the target, where it can be renamed
            (partial / "config.json").write_text(text)
        assert (tmp_path / "rao").is_symlink() and (tmp_path / "disk/rao/config.json").read_text() == text
    names = {path.name for path in tmp_path.rglob("*") if not path.name.startswith(".")}
    assert names == {"disk", "rao", "config.json"}


def fill(target, text):
    with replacing_directory(target) as partial:
        (partial / "config.json").write_text(text)


def left_beside(target):
    return {path.name for path in target.parent.iterdir()} - {target.name, f".{target.name}.lock"}


@pytest.mark.parametrize("at", ["filling", "first rename", "second rename"])
def test_a_directory_that_cannot_be_replaced_stays_and_nothing_is_left_beside_it(tmp_path, monkeypatch, at):
    target, rename, renames = tmp_path / "policy", os.replace, []
    fill(target, "old")

    def fails(source, to):
        renames.append(to)
        if len(renames) == {"first rename": 1, "second rename": 2}[at]:
            raise OSError("no space")
        rename(source, to)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        if at != "filling":
            patch.setattr(os, "replace", fails)
        with replacing_directory(target) as partial:
            (partial / "config.json").write_text("new")
            if at == "filling":
                raise OSError("no space")
    assert (target / "config.json").read_text() == "old" and left_beside(target) == set()


def test_a_directory_whose_writer_was_killed_between_its_renames_comes_back(tmp_path, monkeypatch):
    target = tmp_path / "policy"
    fill(target, "old")
    target.rename(tmp_path / "policy.old")  # what a kill leaves
    (tmp_path / "policy.partial").mkdir()
    with pytest.raises(OSError, match="no space"), replacing_directory(target):
        raise OSError("no space")
    assert (target / "config.json").read_text() == "old" and left_beside(target) == set()


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
        r"\.write_(text|bytes|json|html|image)\(|pq\.write_table\(|\.to_(parquet|csv|json)\((?!index|\))|json\.dump\("
    )
    ours = re.compile(r"(?<![.\w])write_(text|bytes|parquet)\(")
    source = Path(files.__file__).parent
    found = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        if any(writes.search(ours.sub("", line)) for line in path.read_text().splitlines())
    }
    renamed = {"training/checkpoints.py", "evals/files.py", "evals/downstream/sources.py"}
    renamed.add("framework/config_loader.py")  # into a temporary directory
    assert found == renamed | {"files.py", "shards.py"}
