"""The benchmark of data preparation: its steps run on a table of toy size, and its model can be had."""

import data as data_benchmark
import pyarrow.parquet as pq
import pytest


def test_every_step_runs_on_what_the_one_before_it_wrote(tmp_path, tiny_checkpoint):
    data_benchmark.fabricate(tmp_path, data_benchmark.SHIPPED, 30)
    for step in data_benchmark.STEPS:
        data_benchmark.ready(step, tmp_path, tiny_checkpoint, 1)()
    groups, annotated, reference = (
        pq.read_table(tmp_path / f"{name}.parquet")["group_id"].to_pylist()
        for name in ("groups", "annotated", "reference")
    )
    assert len(groups) > 30 and 0 < len(annotated) <= len(groups)
    assert reference == annotated


@pytest.mark.slow
def test_the_model_is_the_packaged_one(tmp_path):
    assert (data_benchmark.packaged_model(tmp_path / "model") / "tokenizer.json").exists()
