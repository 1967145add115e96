"""What is kept of killed work is used again if it was made from the same things and is what was written, else never."""

import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from rao_kedro.shards import JSON, TABLE, Shards, is_finished, mark_finished

ROWS = pa.Table.from_pylist([{"id": "a", "logps": [-1.5, float("-inf")], "failures": [None, "empty"]}])


def files_of(shards):
    return [*shards.directory.iterdir()] if shards.directory.exists() else []


@pytest.mark.parametrize(("kind", "part"), [(JSON, [{"logp": -0.1, "of": ["\u00e9", None, 1e-300]}]), (TABLE, ROWS)])
def test_a_part_is_read_as_it_was_written_under_its_own_key_alone(tmp_path, kind, part):
    shards = Shards(tmp_path / "shards", kind)
    assert shards.read("one") is None
    shards.write("one", part)
    assert Shards(tmp_path / "shards", kind).read("one") == part and shards.read("other") is None


@pytest.mark.parametrize("kind", [JSON, TABLE])
def test_a_part_of_which_any_byte_was_changed_or_lost_is_removed_and_said(tmp_path, kind, caplog):
    shards = Shards(tmp_path, kind)
    shards.write("one", ROWS if kind is TABLE else [1, 2])
    (path,) = files_of(shards)
    whole = path.read_bytes()
    changed = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(len(whole))]
    for content in (*changed, whole[:-1], whole + b"0", b""):
        path.write_bytes(content)
        caplog.clear()
        assert shards.read("one") is None and not path.exists()
        assert "is damaged, or was written for something else" in caplog.text
    path.write_bytes(whole)
    assert shards.read("one") is not None


def test_a_part_under_the_name_of_another_key_is_not_read(tmp_path):
    shards = Shards(tmp_path, JSON)
    shards.write("mine", 1)
    (path,) = files_of(shards)
    path.rename(path.with_name(path.name.replace("mine", "yours")))
    assert shards.read("yours") is None


def test_a_part_that_another_version_wrote_in_another_form_is_made_again(tmp_path):
    Shards(tmp_path, JSON).write("one", [1])
    assert Shards(tmp_path, TABLE).read("one") is None


def test_kept_parts_come_first_and_those_that_are_made_are_kept_one_by_one(tmp_path, caplog):
    shards, keys = Shards(tmp_path, JSON), ["a", "b", "c", "d"]
    shards.write("c", "kept")

    def make(missing, dies=False):
        yield from ((i, f"made {keys[i]}") for i in missing[::-1][:2])
        if dies:
            raise KeyboardInterrupt
        yield from ((i, f"made {keys[i]}") for i in missing[::-1][2:])

    found = []
    with caplog.at_level(logging.INFO), pytest.raises(KeyboardInterrupt):
        found += shards.read_or_make(keys, lambda missing: make(missing, dies=True))
    assert "1 of 4 shards" in caplog.text
    assert [*shards.read_or_make(keys, make)] == [(1, "made b"), (2, "kept"), (3, "made d"), (0, "made a")]
    assert [*shards.read_or_make(keys, pytest.fail)] == [(0, "made a"), (1, "made b"), (2, "kept"), (3, "made d")]


def test_parts_of_other_work_and_what_killed_writers_left_are_removed(tmp_path, caplog):
    shards = Shards(tmp_path, JSON)
    for key in "abc":
        shards.write(key, key)
    (path,) = tmp_path.glob("a*")
    path.with_name(f".{path.name}.0123.partial").write_text("half")
    (tmp_path / "spec.json").write_text("{}")  # is not ours
    with caplog.at_level(logging.INFO):
        shards.discard_others(["a", "z"])
    assert sorted(path.name for path in files_of(shards)) == [path.name, "spec.json"]
    assert "removed 2 shards" in caplog.text


def test_without_a_directory_nothing_is_kept(tmp_path):
    shards = Shards(None, JSON)
    shards.write("a", 1)
    shards.discard_others([])
    shards.remove()
    assert shards.read("a") is None and [*shards.read_or_make(["a"], lambda _: [(0, 1)])] == [(0, 1)]


def test_a_writer_that_is_killed_at_any_moment_leaves_whole_parts_only(tmp_path):
    """A process writes parts over and over until it is killed."""
    code = (
        "import sys; from pathlib import Path; from rao_kedro.shards import JSON, Shards\n"
        "shards = Shards(Path(sys.argv[1]), JSON)\n"
        "while True:\n"
        "    for i in range(20): shards.write(str(i), [i] * 20_000)\n"
        "    print('written', flush=True)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert writer.stdout.readline()
    writer.kill()
    writer.communicate()
    assert [Shards(tmp_path, JSON).read(str(i)) for i in range(20)] == [[i] * 20_000 for i in range(20)]


def test_threads_may_write_and_read_the_same_parts(tmp_path):
    shards, versions = Shards(tmp_path, JSON), [[i] * 5_000 for i in range(8)]
    shards.write("one", versions[0])

    def write_and_read(version):
        shards.write("one", version)
        return shards.read("one")

    with ThreadPoolExecutor(8) as pool:
        read = [*pool.map(write_and_read, versions * 20)]
    assert all(part in versions for part in read) and len(files_of(shards)) == 1


def test_outputs_are_finished_while_they_are_what_was_written_under_the_same_key(tmp_path):
    marker, table, model = tmp_path / "finished.json", tmp_path / "table.parquet", tmp_path / "model"
    model.mkdir()
    table.write_text("rows")
    (model / "weights").write_text("weights")
    assert not is_finished(marker, "key", [table, model])
    mark_finished(marker, "key", [table, model])
    assert is_finished(marker, "key", [table, model])
    assert not is_finished(marker, "other key", [table, model]) and not is_finished(marker, "key", [table])
    (model / "weights").write_text("changed")
    assert not is_finished(marker, "key", [table, model])
    (model / "weights").write_text("weights")
    assert is_finished(marker, "key", [table, model])
    os.remove(table)
    assert not is_finished(marker, "key", [table, model])
    marker.write_text("{")
    assert not is_finished(marker, "key", [table, model])
