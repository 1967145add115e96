"""What makes another checkpoint, and what does not; hashes that are kept."""

import os
import shutil
import subprocess
import sys

import pytest

from rao_kedro import identity
from rao_kedro.errors import DataError
from rao_kedro.identity import cached_hash, content_hash, file_hash, flatten, named_files, path_hash

COUNT = [
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "chat_template.jinja",
    "additional_chat_templates/rag.jinja",
    "model.safetensors.index.json",
    "model-00002-of-00002.safetensors",
]


@pytest.fixture
def checkpoint(tmp_path):
    directory = tmp_path / "model"
    for name in [*COUNT, "README.md", ".gitattributes", ".cache/huggingface/x.lock", "notes.md"]:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(name)
    return directory


@pytest.mark.parametrize("name", COUNT)
@pytest.mark.parametrize("how", ["edited", "removed", "renamed"])
def test_any_file_of_a_checkpoint_makes_it_another_one(checkpoint, name, how):
    before = content_hash(checkpoint)
    path = checkpoint / name
    match how:
        case "edited":
            path.write_text("something else")
        case "removed" if name.endswith(".safetensors"):
            (checkpoint / "model-00001-of-00002.safetensors").write_text("more weights")
        case "removed":
            path.unlink()
        case "renamed":
            path.rename(path.with_name("a" + path.name))
    assert content_hash(checkpoint) != before


@pytest.mark.parametrize("name", ["README.md", "README", "notes.md", ".gitattributes", ".cache/x", "model.lock"])
def test_what_only_people_read_does_not(checkpoint, name):
    before = content_hash(checkpoint)
    (checkpoint / name).write_text("changed")
    assert content_hash(checkpoint) == before


def test_links_count_as_what_they_point_to_now(checkpoint, tmp_path):
    before = content_hash(checkpoint)
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in checkpoint.iterdir():
        (linked / path.name).symlink_to(path)
    assert content_hash(linked) == before
    (checkpoint / "generation_config.json").write_text("other stop tokens")
    assert content_hash(linked) == content_hash(checkpoint) != before
    # A link that is pointed at another file of the same size and time.
    blobs = [tmp_path / "one", tmp_path / "two"]
    for blob in blobs:
        blob.write_text(blob.name)
        os.utime(blob, ns=(0, 0))
    hashes = []
    for blob in blobs:
        (linked / "vocab.json").unlink()
        (linked / "vocab.json").symlink_to(blob)
        hashes.append(content_hash(linked))
    assert hashes[0] != hashes[1]
    blobs[1].unlink()
    with pytest.raises(DataError, match=r"vocab\.json is a link to .*two, which does not exist"):
        content_hash(linked)


def test_the_hash_of_a_large_file_is_kept_for_other_processes_until_the_file_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(identity, "LARGE", 4)
    path = tmp_path / "weights"
    path.write_text("large")
    assert cached_hash(path) == file_hash(path)
    (kept,) = (tmp_path / "cache/rao_kedro/hashes").iterdir()
    kept.write_text("ab" * 32)  # what another process would read
    code = f"""
from pathlib import Path
from rao_kedro import identity
identity.LARGE = 4
print(identity.cached_hash(Path({str(path)!r})).hex())
"""
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == "ab" * 32
    path.write_text("other")
    assert cached_hash(path) == file_hash(path)


def test_parameters_name_the_files_that_are_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / "train/rows.jsonl").write_text("{}")
    (tmp_path / "broken").mkdir()
    values = {
        "model": {"name": "broken", "source": "train"},  # a source is a word, whatever folders there are
        "data": {"path": "train/rows.jsonl", "split": "train", "hub_id": "org/name", "limit": 3},
        "parts": [{"model_dir": "train"}, {"cache_dir": "train"}],
        "text": "x" * 5000 + "/",
    }
    found = named_files(flatten(values), but=("cache_dir",))
    assert set(found) == {"model.name", "data.path", "parts.0.model_dir"}
    (tmp_path / "train/rows.jsonl").write_text('{"a": 1}')
    again = named_files(flatten(values), but=("cache_dir",))
    assert {name for name in found if found[name] != again[name]} == {"data.path", "parts.0.model_dir"}
    shutil.rmtree(tmp_path / "broken")
    assert set(named_files(flatten(values))) == {"data.path", "parts.0.model_dir", "parts.1.cache_dir"}


def test_a_file_that_was_replaced_with_one_of_its_size_and_time_is_another(tmp_path):
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_text("one")
    before = path_hash(path)
    other.write_text("two")
    os.utime(other, ns=(path.stat().st_mtime_ns,) * 2)
    with path.open("r+") as file:  # in place, as `cp -p` does
        file.write("two")
    os.utime(path, ns=(other.stat().st_mtime_ns,) * 2)
    assert path_hash(path) == path_hash(other) != before
