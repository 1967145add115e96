"""Files that a run reads are there, and their first row can be read, before it starts."""

import json

import pytest
from kedro.io import DataCatalog
from plans import data_parameters

from rao_kedro.config.data_engineering import ConversationFiles, PreferenceFiles, PreferenceSource
from rao_kedro.data.readers import read_rows
from rao_kedro.evals.parameters import AnsweredBenchmarks
from rao_kedro.planning import files
from rao_kedro.planning.steps import Run


def test_preference_data_are_there_and_their_first_row_can_be_read(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    (tmp_path / "test.parquet").write_text("no parquet")
    sources = {"train": {"path": str(tmp_path / "train.jsonl")}, "test": {"path": str(tmp_path / "test.parquet")}}
    (sentence,) = files.preference_problems(PreferenceFiles(**sources))
    assert (
        sentence.startswith("parameter data.preferences.test.path: ")
        and "does not have the format of its extension" in sentence
    )
    skipping = PreferenceSource(path=str(tmp_path / "train.jsonl"), skip_rows=1)
    assert "has no row after the 1 of data.preferences.train.skip_rows" in next(
        files.source_problems("data.preferences.train", skipping)
    )
    assert "there is no such file" in next(files.source_problems("x", PreferenceSource(path="nowhere.jsonl")))
    hub = PreferenceFiles(train={"hub_id": "a/b"}, test={"hub_id": "a/b"})
    assert list(files.preference_problems(hub)) == []


def test_conversations_are_there_and_their_first_row_can_be_read(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"messages": []}\n')
    sources = {"train": {"path": str(tmp_path / "train.jsonl")}, "validation": {"path": str(tmp_path / "none.jsonl")}}
    (sentence,) = files.conversation_problems(ConversationFiles(**sources))
    assert sentence.startswith("parameter data.conversations.validation.path: ") and "there is no such file" in sentence


def test_there_are_as_many_prompts_as_are_asked_for(tmp_path):
    from kedro_datasets.pandas import JSONDataset

    path = tmp_path / "prompts.jsonl"
    splits = ["train"] * 8 + ["test"] * 36
    path.write_text("".join(json.dumps({"prompt_id": str(i), "split": split}) + "\n" for i, split in enumerate(splits)))
    known = Run((), DataCatalog({"prompts": JSONDataset(filepath=str(path), load_args={"lines": True})}))
    assert list(files.prompt_problems(known, data_parameters().sampled, 20)) == []
    (sentence,) = files.prompt_problems(known, data_parameters(train_prompts=9).sampled, 20)
    assert sentence.startswith("prompts: split train has 8 prompts, and 9 are needed")
    (sentence,) = files.prompt_problems(known, data_parameters().sampled, 21)
    assert sentence.startswith("prompts: split test has 36 prompts, and 37 are needed")
    path.write_text("{")
    assert f"{path} cannot be read as prompts" in next(files.prompt_problems(known, data_parameters().sampled, 20))


def test_a_large_file_is_opened_and_not_read(tmp_path, monkeypatch):
    (tmp_path / "rows.json").write_text("[]")
    source = PreferenceSource(path=str(tmp_path / "rows.json"))
    assert len(list(files.source_problems("x", source))) == 1
    monkeypatch.setattr(files, "LARGE", 1)
    monkeypatch.setattr(files, "read_rows", lambda source: pytest.fail("it was read") or read_rows(source))
    assert list(files.source_problems("x", source)) == []


def test_files_of_benchmarks_that_are_chosen_are_there(tmp_path):
    (tmp_path / "there").write_text("[]")
    there, gone = str(tmp_path / "there"), str(tmp_path / "gone")
    how = {
        "alpaca_eval": {"baseline": gone, "instruction_difficulty": None, "gamed": "hf://datasets/x/y.csv"},
        "mt_bench": {"questions": there, "reference_answers": gone, "judge_prompts": gone},
        "sources": {"gsm8k": {"path": gone}, "mmlu": {"path": str(tmp_path)}},
    }

    def named(names):
        found = files.benchmark_problems(AnsweredBenchmarks(names=names, **how))
        return [sentence.split(": ")[0].rpartition("benchmarks.")[2] for sentence in found]

    assert named("arc_easy") == []
    assert named("mt_bench") == ["mt_bench.reference_answers", "mt_bench.judge_prompts"]
    assert named("alpaca_eval gsm8k mmlu") == ["alpaca_eval.baseline", "sources.gsm8k.path"]


def test_tasks_of_the_harness_and_their_local_rows_are_known_before_anything_runs(tmp_path):
    (tmp_path / "there.jsonl").write_text("{}")
    there, gone = str(tmp_path / "there.jsonl"), str(tmp_path / "gone.jsonl")
    rows = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"train": there, "test": [gone]}}}
    datasets = {"hellaswag": {"dataset_path": str(tmp_path / "copy")}, "ifevall": rows}
    chosen = AnsweredBenchmarks(harness={"tasks": "hellaswag ifevall", "datasets": datasets})
    copy, file, task = files.benchmark_problems(chosen)
    assert copy.startswith("parameter evaluation.benchmarks.harness.datasets.hellaswag.dataset_path: there is no ")
    assert file.endswith(f"harness.datasets.ifevall.dataset_kwargs.data_files: there is no file {gone}")
    assert "harness.tasks: lm-evaluation-harness has no task 'ifevall' (did you mean: ifeval" in task


def test_tables_take_at_least_the_bytes_of_their_source_unless_only_some_rows_are_read(tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("rows.jsonl", "folder/train.jsonl.gz"):
        (tmp_path / name).write_bytes(b"x" * 100)

    def taken(path, **how):
        return files.data_bytes(PreferenceSource(path=str(tmp_path / path), **how))

    assert (taken("rows.jsonl"), taken("folder"), taken("absent")) == (100, 300, 0)
    assert taken("rows.jsonl", max_rows=5) == files.data_bytes(PreferenceSource(hub_id="a/b")) == 0
