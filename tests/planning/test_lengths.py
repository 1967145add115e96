"""Lengths that do not fit are refused: packs against groups, engines against prompts, t_0 against prompts."""

import shutil

import pandas as pd
import pytest
from conversation_rows import conversation_rows, write_conversations
from kedro.io import DataCatalog, MemoryDataset
from plans import data_parameters, planned_run, planned_step, training_parameters

from rao_kedro.config.alignment import MethodParameters
from rao_kedro.config.data_engineering import ModelParameters
from rao_kedro.config.generation import GenerationParameters
from rao_kedro.datasets import PathDataset
from rao_kedro.evals.parameters import AnsweredBenchmarks
from rao_kedro.planning import lengths, models
from rao_kedro.planning.steps import Run


@pytest.mark.parametrize(
    ("function", "given"),
    [
        ("train_sft", "training"),
        ("train_reward_model", "training"),
        ("align", "method"),
    ],
)
def test_a_pack_must_hold_the_longest_prompt_and_response_that_the_parameters_allow(function, given):
    """256 tokens of a prompt and 48 of a response. A longer group is split by response."""

    def refused(room):
        training = training_parameters(max_tokens_per_batch=room)
        value = training if given == "training" else MethodParameters(objective="rao", training=training)
        step = planned_step(function, **{given: value})
        return list(lengths.pack_problems(planned_run(data=data_parameters()), step))

    assert refused(304) == []
    (sentence,) = refused(303)
    assert "max_tokens_per_batch is 303, and a prompt of data.max_prompt_tokens (256)" in sentence
    assert "may have 304 tokens: raise it to 304" in sentence


def test_conversations_that_are_learned_must_fit_a_pack(tmp_path):
    """By what the parameters allow, and once they are tokenised, by the longest one of train and validation."""
    read = {"learned": lengths.CONVERSATIONS}

    def refused(catalog, room):
        step = planned_step("train_sft", datasets=read, training=training_parameters(max_tokens_per_batch=room))
        return [*lengths.pack_problems(Run((step,), catalog), step)]

    data = data_parameters().model_copy(update={"max_conversation_tokens": 900})
    unknown = DataCatalog({"params:data": MemoryDataset(data)})
    assert refused(unknown, 900) == []
    (sentence,) = refused(unknown, 899)
    assert "max_tokens_per_batch is 899, and a conversation may have data.max_conversation_tokens (900)" in sentence
    path = write_conversations(tmp_path / "conversations.parquet", 12)
    known = DataCatalog({lengths.CONVERSATIONS: PathDataset(filepath=str(path))})
    rows = {row["conversation_id"]: len(row["ids"]) for row in conversation_rows(12)}
    assert {group.id: group.tokens(1) for group in lengths.read_groups(path)} == rows
    longest = max(rows.values())
    assert refused(known, longest) == []
    (sentence,) = refused(known, longest - 1)
    assert f"has {longest} tokens" in sentence and "lower data.max_conversation_tokens" in sentence


def test_groups_that_are_known_count_and_not_what_might_be(tmp_path):
    rows = [("a", "train", 10, (5, 7, 20)), ("b", "validation", 8, (3, 3)), ("c", "test", 30, (60, 1))]
    table = [
        {
            **{"group_id": name, "split": split, "prompt_ids": [1] * n, "response_ids": [[1] * k for k in ks]},
            **{"chosen": 1, "rejected": 0},
        }
        for name, split, n, ks in rows
    ]
    pd.DataFrame(table).to_parquet(tmp_path / "groups.parquet")
    (first, *_) = lengths.read_groups(tmp_path / "groups.parquet")
    assert first.responses == (7, 5, 20) and first.tokens(None) == 42 and first.tokens(1) == 17
    assert first.longest_row(None) == 30 and first.longest_row(2) == 17
    known = Run((), DataCatalog({"tokenized_groups@path": PathDataset(filepath=str(tmp_path / "groups.parquet"))}))
    read = {"groups": "tokenized_groups@path"}

    def planned(function, room, **given):
        given = given or {"training": training_parameters(max_tokens_per_batch=room)}
        return planned_step(function, datasets=read, **given)

    def refused(function, room, **given):
        return list(lengths.pack_problems(known, planned(function, room, **given)))

    assert refused("train_sft", 17) == [] and refused("train_reward_model", 30) == []
    assert "the prompt of group a and one of its responses have 17 tokens" in refused("train_sft", 16)[0]
    assert "group a and one of its responses have 30 tokens" in refused("train_reward_model", 29)[0]
    assert refused("score_responses", 0, max_tokens_per_batch=90) == []  # reads the part `test`
    assert (
        "group c and one of its responses have 90 tokens" in refused("score_responses", 0, max_tokens_per_batch=89)[0]
    )
    (remark,) = lengths.split_remarks(known, planned("train_reward_model", 41))
    assert (
        "1 of 1 training groups are longer than a pack of 41 tokens" in remark and "max_tokens_per_batch = 42" in remark
    )
    assert list(lengths.split_remarks(known, planned("train_reward_model", 42))) == []
    assert list(lengths.split_remarks(known, planned("score_responses", 0, max_tokens_per_batch=90))) == []


@pytest.mark.parametrize(
    ("length", "prompt", "refused"), [(304, None, False), (303, None, True), (303, 255, False), (302, 255, True)]
)
def test_an_engine_must_hold_the_longest_prompt_and_what_is_written(length, prompt, refused):
    how = GenerationParameters(max_model_len=length, sampling={"max_tokens": 48})
    found = list(lengths.room_problems(planned_run(data__max_prompt_tokens=256), "evaluation.generation", how, prompt))
    assert bool(found) == refused
    if refused:
        wanted = 48 + (prompt or 256)
        assert found[0].startswith(f"parameter evaluation.generation.max_model_len ({length}) is too small")
        assert found[0].endswith(f"set it to {wanted} or more")


def test_benchmarks_need_room_for_a_prompt_where_they_are_chosen():
    how = {"max_model_len": 1024, "alpaca_eval": {"max_tokens": 2048}, "mt_bench": {"max_tokens": 1023}}
    assert list(lengths.benchmark_problems(AnsweredBenchmarks(names="mt_bench gsm8k", **how))) == []
    (sentence,) = lengths.benchmark_problems(AnsweredBenchmarks(names="alpaca_eval mt_bench", **how))
    assert "evaluation.benchmarks.alpaca_eval.max_tokens (2048)" in sentence


def test_vllm_refuses_more_tokens_than_a_model_has_positions_for(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    shutil.copytree(tiny_checkpoint, tmp_path / "model")
    of = {"model": ModelParameters(source="checkpoint", name=str(tmp_path / "model"))}
    known = Run((), DataCatalog({"params:model": MemoryDataset(of["model"]), "base_model": MemoryDataset()}))
    assert models.facts(known).positions == 2048
    assert list(lengths.position_problems(known, "x.max_model_len", 2048, "auto")) == []
    assert list(lengths.position_problems(known, "x.max_model_len", 4096, "transformers")) == []
    (sentence,) = lengths.position_problems(known, "x.max_model_len", 2049, "auto")
    assert "parameter x.max_model_len (2049) is more than the 2048 tokens" in sentence
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1")
    assert list(lengths.position_problems(known, "x.max_model_len", 4096, "vllm")) == []


def test_what_all_prompts_share_is_shorter_than_a_prompt():
    assert list(lengths.t0_problems(25, 24)) == []
    assert "every prompt would be dropped" in next(lengths.t0_problems(24, 24))
