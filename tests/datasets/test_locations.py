"""Tables, texts, checkpoints and paths elsewhere than on this machine, with credentials and versions; or refused."""

import inspect
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pandas as pd
import plotly.graph_objects as go
import pytest
from kedro.io import DatasetError, Version

from rao_kedro.datasets import (
    CheckpointDataset,
    CSVDataset,
    JSONDataset,
    PartitionedDataset,
    PathDataset,
    TableDataset,
    TextDataset,
    remote,
)
from rao_kedro.datasets.locations import refuse_unusable_locations
from rao_kedro.datasets.plotly.json_dataset import JSONDataset as FigureDataset
from rao_kedro.errors import ParameterError

FRAME = pd.DataFrame({"x": [1, 2], "chat": [[{"role": "user", "content": "Hi"}]] * 2})
FIRST, SECOND = "2026-01-01T00.00.00.000Z", "2026-01-02T00.00.00.000Z"
KEYS = {"key": "a-key", "secret": "a-secret"}


@pytest.fixture(scope="module")
def s3_server():
    """A local S3 server, in a process of its own: botocore and it would share their patches in one."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    code = """
import time
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
time.sleep(600)
"""
    server = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    lines = iter(server.stdout.readline, "")
    port = next(line.strip() for line in lines if line.strip().isdigit())
    yield f"http://127.0.0.1:{port}"
    server.kill()
    server.wait()
    server.stdout.close()


@pytest.fixture(params=["file", "memory", "s3"])
def place(request, tmp_path, monkeypatch):
    """Where datasets are kept: a function of a name that returns their location and credentials."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if request.param == "file":
        return lambda name: {"filepath": f"{tmp_path}/data/{name}"}
    if request.param == "memory":
        fsspec.filesystem("memory").store.clear()
        return lambda name: {"filepath": f"memory://bucket/{name}"}
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(variable, raising=False)  # so that only the catalog's credentials open the server
    keys = KEYS | {"client_kwargs": {"endpoint_url": request.getfixturevalue("s3_server")}}
    bucket = f"bucket-{abs(hash(str(tmp_path)))}"
    fsspec.filesystem("s3", **keys).mkdir(bucket)
    return lambda name: {"filepath": f"s3://{bucket}/study/{name}", "credentials": keys}


def test_a_table_is_saved_read_and_previewed_wherever_it_is(place):
    table = TableDataset(**place("table.parquet"))
    assert not table.exists()
    table.save(FRAME)
    assert table.exists() and table.load()["x"].tolist() == [1, 2]
    preview = table.preview(nrows=1)
    assert preview["columns"] == ["x", "chat"] and json.loads(preview["data"][0][1]) == FRAME["chat"][0]
    path = PathDataset(**place("table.parquet")).load()
    assert isinstance(path, Path) and path.name == "table.parquet" and pd.read_parquet(path)["x"].tolist() == [1, 2]


def test_versions_are_saved_and_the_last_one_is_read_and_previewed(place):
    for version, x in ((FIRST, 1), (SECOND, 2)):
        TableDataset(**place("table.parquet"), version=Version(None, version)).save(pd.DataFrame({"x": [x]}))
    for load, x in ((None, 2), (FIRST, 1)):
        how = {**place("table.parquet"), "version": Version(load, None)}
        table = TableDataset(**how)
        assert (table.load()["x"].tolist(), table.preview()["data"]) == ([x], [[x]])
        assert pd.read_parquet(PathDataset(**how).load())["x"].tolist() == [x]


def test_texts_figures_and_partitions_are_kept_there_too(place):
    for dataset, data in (
        (CSVDataset(**place("table.csv")), pd.DataFrame({"x": [1]})),
        (JSONDataset(**place("settings.json")), {"a": "ü"}),
        (TextDataset(**place("report.html")), "<p>ü</p>"),
    ):
        dataset.save(data)
        loaded = dataset.load()
        assert loaded.equals(data) if isinstance(data, pd.DataFrame) else loaded == data
    figure = FigureDataset(**place("figure.json"))
    figure.save(go.Figure(go.Bar(y=[1, 2])))
    assert list(figure.load().data[0].y) == [1, 2] and figure.preview()["data"][0]["type"] == "bar"


def test_partitions_that_are_gone_are_removed_once_the_others_are_written(place, monkeypatch):
    where = place("outputs")
    how = {
        "path": where.pop("filepath"),
        "filename_suffix": ".json",
        "overwrite": True,
        "dataset": {"type": JSONDataset},
    }
    partitions = PartitionedDataset(**how, **where)
    partitions.save({"rao": [1], "dpo": [2]})

    def saved():
        return {name: load() for name, load in partitions.load().items()}

    with pytest.raises(DatasetError, match="not JSON serializable"):
        partitions.save({"rao": [3], "sft": {1, 2}})
    assert saved() == {"rao": [1] if partitions._protocol == "file" else [3], "dpo": [2]}
    partitions.save({"rao": [4], "ipo": [5]})
    assert saved() == {"rao": [4], "ipo": [5]}


def test_a_checkpoint_is_put_there_fetched_once_and_again_when_it_changed(place, tmp_path, monkeypatch):
    model = tmp_path / "workspace/model"
    (model / "sub").mkdir(parents=True)
    for name, text in (("config.json", "{}"), ("model.safetensors", "weights"), ("sub/old.txt", "old")):
        (model / name).write_text(text)
    dataset = CheckpointDataset(**place("rao"))
    with pytest.raises(DatasetError, match="holds no checkpoint"):
        dataset.load()
    dataset.save(model)
    first = dataset.load()
    assert first.name == "rao" and (first / "model.safetensors").read_text() == "weights"
    assert (first / "sub/old.txt").exists()
    if dataset._protocol != "file":
        fetched = []
        monkeypatch.setattr(type(dataset._fs), "get_file", lambda *a, **k: fetched.append(a))
        assert CheckpointDataset(**place("rao")).load() == first and fetched == []
        monkeypatch.undo()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    dataset.save(model)
    assert dataset.load() == first  # else a killed training that read it would start over
    (model / "model.safetensors").write_text("trained")
    (model / "sub/old.txt").unlink()
    dataset.save(model)
    second = dataset.load()
    assert (second / "model.safetensors").read_text() == "trained" and not (second / "sub/old.txt").exists()
    if dataset._protocol != "file":
        assert (first / "model.safetensors").read_text() == "weights"  # a worker may be reading it


def test_a_checkpoint_that_is_put_there_only_in_part_is_none(tmp_path, monkeypatch):
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    for name in ("config.json", "model.safetensors", "a.json"):
        (tmp_path / name).write_text("1")
    dataset = CheckpointDataset(filepath="memory://bucket/rao")
    dataset.save(tmp_path)
    put = type(fs).put_file

    def killed(self, source, target, **how):
        if target.endswith("model.safetensors"):
            raise KeyboardInterrupt
        put(self, source, target, **how)

    monkeypatch.setattr(type(fs), "put_file", killed)
    with pytest.raises(KeyboardInterrupt):
        dataset.save(tmp_path)
    assert not dataset.exists()


@pytest.mark.parametrize("kind", ["table", "csv", "json", "text", "figure"])
def test_a_write_that_ends_in_the_middle_leaves_the_old_file(place, monkeypatch, kind):
    of_kind = {
        "table": (TableDataset, FRAME),
        "csv": (CSVDataset, FRAME[["x"]]),
        "json": (JSONDataset, {"a": 1}),
        "text": (TextDataset, "text"),
        "figure": (FigureDataset, go.Figure(go.Bar(y=[1]))),
    }
    dataset_type, data = of_kind[kind]
    dataset = dataset_type(**place("artefact"))
    dataset.save(data)
    before = dataset._fs.cat_file(dataset._filepath.as_posix())

    def half(*arguments, **how):
        file = next(part for part in (*arguments, *how.values()) if hasattr(part, "write"))
        try:
            file.write("half of it" * 10_000)
        except TypeError:
            file.write(b"half of it" * 10_000)
        raise RuntimeError("the middle")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", half)
    monkeypatch.setattr(pd.DataFrame, "to_csv", half)
    monkeypatch.setattr(go.Figure, "write_json", half)
    monkeypatch.setattr(json, "dump", half)
    unwritable = data if kind != "text" else 5
    with pytest.raises(DatasetError):
        dataset.save(unwritable)
    dataset._fs.invalidate_cache()
    assert dataset._fs.cat_file(dataset._filepath.as_posix()) == before


def test_a_file_that_the_catalog_names_may_be_a_link_to_a_larger_disk(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "table.csv").symlink_to(tmp_path / "disk/table.csv")
    CSVDataset(filepath=str(tmp_path / "table.csv")).save(pd.DataFrame({"x": [1]}))
    assert (tmp_path / "table.csv").is_symlink() and (tmp_path / "disk/table.csv").read_text() == "x\n1\n"


def test_threads_save_at_the_same_time_as_with_async(place):
    """Kedro hints at `--async`, which saves the outputs of a node in threads that share a file system."""
    datasets = [TableDataset(**place(f"table_{i}.parquet")) for i in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda dataset: [dataset.save(FRAME) for _ in range(5)], datasets))
    assert [len(dataset.load()) for dataset in datasets] == [2] * 8


def test_no_protocol_becomes_a_local_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for dataset in (PathDataset, CheckpointDataset):
        assert not dataset(filepath="memory://bucket/nowhere/rao").exists()
    assert [*tmp_path.iterdir()] == []


def test_entries_that_cannot_be_used_are_refused_by_name(monkeypatch, tmp_path):
    ours = "rao_kedro.datasets."
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) == str(tmp_path / "disk"))
    catalog = {
        "{method}.policy": {"type": f"{ours}CheckpointDataset", "filepath": "nothing://b/{method}"},
        "d": {"type": "pandas.CSVDataset", "filepath": "nothing://b/x.csv"},
        "e": {"type": f"{ours}CheckpointDataset", "filepath": str(tmp_path / "disk")},
        "t@pandas": {"type": f"{ours}TableDataset", "filepath": "data/t", "versioned": True},
        "t@path": {"type": f"{ours}PathDataset", "filepath": "data/t"},
        "fine": {"type": f"{ours}CheckpointDataset", "filepath": "memory://b/x", "versioned": True},
        "of_another_package": {"type": "not.installed.Dataset", "filepath": "memory://b/x"},
        "memory": {"type": "MemoryDataset", "data": None},
    }
    monkeypatch.setattr("rao_kedro.datasets.locations.SHOWN", 10)
    with pytest.raises(ParameterError) as refused:
        refuse_unusable_locations(catalog)
    lines = [line.removeprefix("catalog entry ").split(": ", 1) for line in str(refused.value).splitlines()]
    said = dict(lines)
    assert list(said) == ["d", "e", "t@path", "{method}.policy"]
    assert "no file system called nothing" in said["{method}.policy"]
    assert "no file system called nothing" in said["d"] and "choose a directory in it" in said["e"]
    assert "its versioned is None, and that of t@pandas, which is the same file, is True" in said["t@path"]
    monkeypatch.setattr("rao_kedro.datasets.locations.SHOWN", 2)
    with pytest.raises(ParameterError, match=r"(?s)entry d: .*entry e: .*\nand 2 more entries$"):
        refuse_unusable_locations(catalog)


def test_a_preview_copies_the_dataset(tmp_path):
    dataset = CSVDataset(filepath=f"{tmp_path}/table.csv")
    dataset.save(pd.DataFrame({"x": range(9)}))
    assert len(dataset.preview(nrows=3)["data"]) == 3 and len(dataset.load()) == 9


def test_kedro_viz_knows_figures_and_previews_of_our_datasets():
    utils = pytest.importorskip("kedro_viz.models.utils")
    assert utils.get_dataset_type(FigureDataset(filepath="figure.json")) == "plotly.json_dataset.JSONDataset"
    kinds = (CSVDataset, TableDataset, JSONDataset, FigureDataset)
    previews = [inspect.signature(kind.preview).return_annotation for kind in kinds]
    names = [getattr(preview, "__name__", preview) for preview in previews]
    assert names == ["TablePreview", "TablePreview", "JSONPreview", "PlotlyPreview"]


def test_copies_lie_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert remote.cache_directory() == tmp_path / "rao_kedro/fetched"
