"""Records and reasons, on pipelines of one or two nodes."""

import json
import os

import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline
from kedro.runner import SequentialRunner
from kedro_datasets.pandas import CSVDataset
from kedro_datasets.partitions import PartitionedDataset
from pluggy import PluginManager
from pydantic import BaseModel

from rao_kedro.config.workers import WorkerParameters
from rao_kedro.datasets import PathDataset
from rao_kedro.datasets.freshness import describe_stale_node, find_edited, find_stale_nodes
from rao_kedro.framework.hooks import FreshnessHooks


class Block(BaseModel):
    path: str = "rows.jsonl"
    limit: int = 3


def read(block, table, other, workers):
    return table.assign(limit=block.limit)


def split(table):
    return {"a": table.head(1), "b": table.tail(1)}


PIPELINE = Pipeline(
    [
        Node(read, ["params:block", "table@pandas", "other", "params:workers"], "read", name="read"),
        Node(split, "read", "parts", name="split"),
    ]
)


@pytest.fixture
def catalog(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text("{}")
    pd.DataFrame({"x": [1, 2]}).to_csv(tmp_path / "table.csv", index=False)
    csv = {"save_args": {"index": False}}
    return DataCatalog(
        {
            "params:block": MemoryDataset(Block()),
            "table@pandas": CSVDataset(filepath=str(tmp_path / "table.csv"), **csv),
            "table@path": PathDataset(filepath=str(tmp_path / "table.csv")),
            "other": MemoryDataset(data=None),
            "params:workers": MemoryDataset(
                WorkerParameters(accelerate_config="cpu.yaml", workspaces=tmp_path / "work")
            ),
            "read": CSVDataset(filepath=str(tmp_path / "read.csv"), **csv),
            "parts": PartitionedDataset(
                path=str(tmp_path / "parts"), dataset=CSVDataset, filename_suffix=".csv", overwrite=True
            ),
        }
    )


def run(catalog, pipeline=PIPELINE, *more_hooks):
    from kedro.framework.hooks.manager import _create_hook_manager

    hooks: PluginManager = _create_hook_manager()
    for hook in (FreshnessHooks(), *more_hooks):
        hooks.register(hook)
    SequentialRunner().run(pipeline, catalog, hooks)


@pytest.fixture
def finished(catalog):
    run(catalog)
    assert find_stale_nodes(PIPELINE, catalog) == {}
    return catalog


def test_a_record_says_what_an_artefact_was_made_from(finished, tmp_path):
    record = json.loads((tmp_path / ".made_from/read.csv.json").read_text())
    assert record["node"] == "read" and record["parameters"] == {"block.path": "rows.jsonl", "block.limit": 3}
    assert set(record["inputs"]) == {"table", "other"} and record["inputs"]["other"] is None
    assert set(record["files"]) == {"block.path"} and record["version"]
    assert (tmp_path / ".made_from/parts.json").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("parameter", "parameter block.limit was 3, is 4"),
        ("named file", "the file that parameter block.path names changed"),
        ("input", "input table changed"),
        ("left out", "input other was left out"),
        ("in memory", "input other was left out"),
        ("missing", "read does not exist"),
        ("record", "nothing says what read was made from"),
        ("node", "it was made by another"),
    ],
)
def test_whatever_changed_is_named_and_what_depends_on_it_is_stale_too(finished, tmp_path, change, reason):
    record = tmp_path / ".made_from/read.csv.json"
    match change:
        case "parameter":
            finished["params:block"] = MemoryDataset(Block(limit=4))
        case "named file":
            (tmp_path / "rows.jsonl").write_text("{} ")
        case "input":
            (tmp_path / "table.csv").write_text("x\n1\n3\n")
        case "left out":
            finished["other"] = PathDataset(filepath=str(tmp_path / "rows.jsonl"))
        case "in memory":
            finished["other"] = MemoryDataset(data=5)
        case "missing":
            (tmp_path / "read.csv").unlink()
        case "record":
            record.unlink()
        case "node":
            record.write_text(json.dumps(json.loads(record.read_text()) | {"node": "another"}))
    assert find_stale_nodes(PIPELINE, finished) == {"read": [reason], "split": ["read is made again"]}


def test_what_does_not_matter_makes_nothing_stale(finished, tmp_path):
    others = WorkerParameters(accelerate_config="ddp.yaml", in_process=True, workspaces=tmp_path / "elsewhere")
    finished["params:workers"] = MemoryDataset(others)
    os.utime(tmp_path / "table.csv")
    record = tmp_path / ".made_from/read.csv.json"
    old = json.loads(record.read_text())
    del old["parameters"]["block.limit"]  # a version that did not have it yet, and what it has now is the default
    record.write_text(json.dumps(old | {"version": "0.0.1"}))
    assert find_stale_nodes(PIPELINE, finished) == {}
    finished["params:block"] = MemoryDataset(Block(limit=4))
    assert find_stale_nodes(PIPELINE, finished)["read"] == ["parameter block.limit was not there, is 4"]


def test_an_artefact_that_was_edited_stays_and_its_dependents_are_stale(finished, tmp_path):
    (tmp_path / "read.csv").write_text("x,limit\n9,9\n8,8\n")
    assert find_stale_nodes(PIPELINE, finished) == {"split": ["input read changed"]}
    assert find_edited(PIPELINE, finished) == ["read"]
    (tmp_path / "parts/a.csv").write_text("edited")
    assert find_edited(PIPELINE, finished) == ["read", "parts"]


def test_what_is_only_in_memory_is_never_taken_for_fresh(catalog):
    catalog["read"] = MemoryDataset()
    run(catalog)
    found = find_stale_nodes(PIPELINE, catalog)
    assert set(found) == {"read", "split"}


def test_a_node_that_fails_or_is_edited_under_leaves_no_record_that_is_wrong(finished, tmp_path):
    def edit_and_read(block, table, other, workers):
        (tmp_path / "table.csv").write_text("x\n5\n6\n")
        return table

    # Edited while the node runs: it was made from what it was given.
    names = ["params:block", "table@pandas", "other", "params:workers"]
    pipeline = Pipeline([Node(edit_and_read, names, "read", name="read")])
    run(finished, pipeline)
    assert find_stale_nodes(pipeline, finished) == {"read": ["input table changed"]}

    def fail(*inputs):
        raise KeyboardInterrupt

    record = (tmp_path / ".made_from/read.csv.json").read_text()
    with pytest.raises(KeyboardInterrupt):
        run(finished, Pipeline([Node(fail, names, "read", name="read")]))
    assert (tmp_path / ".made_from/read.csv.json").read_text() == record  # and the artefact is untouched as well


def test_a_reason_is_one_line():
    assert describe_stale_node("n", ["a", "b", "c", "d", "e"]) == "n: a; b; c; and 2 more"
