"""How much a run takes: rows of files, bytes of checkpoints and models, and how that is written."""

import gzip

import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from plans import data_parameters, planned_run, planned_step

from rao_kedro.config.data_engineering import ConversationFiles, ModelParameters, PreferenceFiles
from rao_kedro.config.planning import PlanningParameters
from rao_kedro.config.training import LoRAParameters, TrainingParameters
from rao_kedro.datasets import CheckpointDataset
from rao_kedro.planning import machine, size, table
from rao_kedro.planning.steps import Run, Step


def training(**how):
    return TrainingParameters(learning_rate=1e-5, **how)


def test_rows_are_counted_where_that_is_quick(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n{"a": 3}')
    pd.DataFrame({"a": range(10)}).to_parquet(tmp_path / "b.parquet")
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n'))

    def rows(train, **of_train):
        sources = {"train": {"path": str(tmp_path / train), **of_train}, "test": {"hub_id": "a/b", "max_rows": 100}}
        return size.rows_of(PreferenceFiles(**sources))

    assert rows("a.jsonl") == 103 and rows("b.parquet") == 110
    assert rows("b.parquet", skip_rows=4, max_rows=5) == 105 and rows("b.parquet", skip_rows=8, max_rows=5) == 102
    assert rows("c.jsonl.gz") is None and rows("c.jsonl.gz", max_rows=7) == 107


def test_rows_of_conversations_are_counted_and_lengths_assumed_until_they_are_tokenised(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": 2}')
    assert size.rows_of(ConversationFiles(train={"path": str(tmp_path / "a.jsonl")})) == 2
    sizes = PlanningParameters(conversations={"train": 100, "held_out": 10, "tokens": 1200, "source": "a paper"})
    data = data_parameters().model_copy(update={"max_conversation_tokens": 1000})
    step = planned_step("train_sft", datasets={"learned": "tokenized_conversations"}, training=training(batch_size=8))
    run = planned_run(step, planning=sizes, data=data, model=ModelParameters(source="tiny_random", name="tiny"))
    found = size.size_of(run, step, None)
    assert (found.rows, found.tokens, found.steps) == (100, 100 * 1000 * training().epochs, 13 * training().epochs)
    assert found.assumed >= {"rows", "tokens", "steps"}


@pytest.mark.parametrize(
    ("how", "steps", "checkpoints"),
    [
        ({"checkpoint_every": 10}, None, 0),
        ({"checkpoint_every": 0}, 100, 0),
        ({"checkpoint_every": 10}, 9, 0),
        ({"checkpoint_every": 10}, 10, 1),
        ({"checkpoint_every": 10}, 100, 3),  # two are kept, and the next is written before the oldest goes
        ({"checkpoint_every": 10, "checkpoints_kept": 5}, 100, 6),
        ({"checkpoint_every": 10, "lora": LoRAParameters()}, 100, 0),
    ],
)
def test_checkpoints_hold_weights_and_adam(how, steps, checkpoints):
    assert size.checkpoint_bytes(training(**how), 1000, steps) == checkpoints * 1000 * 12


def test_models_that_are_there_are_replaced_and_a_base_model_of_ones_own_is_linked(tiny_checkpoint, tmp_path):
    model = ModelParameters(source="checkpoint", name=str(tiny_checkpoint))
    datasets = {
        name: CheckpointDataset(filepath=str(tmp_path / name)) for name in ("base_model", "sft_model", "rao.policy")
    }
    catalog = DataCatalog({**datasets, "params:model": MemoryDataset(model)})
    steps = (
        Step("prepare_base_model", "prepare_base_model", {"model": model}, {}, {}, ("base_model",)),
        Step("train_sft", "train_sft", {"training": training()}, {"training": "sft"}, {}, ("sft_model", "log")),
    )
    weights = sum(file.stat().st_size for file in tiny_checkpoint.glob("*.safetensors"))
    assert size.bytes_on_disk(Run(steps, catalog)) == pytest.approx(weights / 2, rel=0.05)  # in bf16
    (tmp_path / "sft_model").mkdir()
    (tmp_path / "sft_model/config.json").write_text("{}")
    assert size.bytes_on_disk(Run(steps, catalog)) == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12345, "12,345"),
        (123_456, "123 k"),
        (2_500_000, "2.5 M"),
        (999_000_000, "999 M"),
        (3 * 10**9, "3.0 G"),
    ],
)
def test_numbers_fit_into_their_column(value, text):
    assert table._number(value) == text


def test_sizes_and_times_are_what_a_reader_wants():
    assert [machine.size(n) for n in (0, 999, 5_400, 112_000, 538e6, 2.2e9, 75e9, 3.1e13)] == [
        *("0 B", "999 B", "5.4 kB", "112 kB", "538 MB", "2.2 GB", "75 GB", "31.0 TB")
    ]
    assert [table.duration(s) for s in (0.2, 12, 89, 600, 7200)] == ["< 1 s", "12 s", "89 s", "10 min", "2.0 h"]


def test_a_name_that_is_too_long_is_cut():
    line = table._line(["rpo_partition_seed_1.plot_training", "new", *[""] * 6])
    assert line.startswith("rpo_partition_seed_1.plo...") and len(line) <= 80
