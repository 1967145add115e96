"""Rows of public reward benchmarks, and what does not fit."""

import json

import pytest
from reward_rows import COMPLETE, best_of, compared, judged, pair, read_rows_of, styles

from rao_kedro.config.data_engineering import PreferenceSource
from rao_kedro.errors import DataError, ParameterError
from rao_kedro.evals.reward_benchmarks import benchmarks
from rao_kedro.evals.reward_benchmarks.benchmarks import read_benchmark, score_benchmark
from rao_kedro.evals.reward_benchmarks.registry import REWARD_BENCHMARKS


def test_there_is_a_complete_example_of_every_benchmark():
    assert list(COMPLETE) == list(REWARD_BENCHMARKS)


def without(row, name):
    return {key: value for key, value in row.items() if key != name}


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("rewardbench", "no json", "invalid_json"),
        ("rewardbench", without(pair("hep-go"), "rejected"), "missing_column"),
        ("rewardbench", pair("anthropic_helpful"), "bad_type"),
        ("rewardbench", pair("hep-go") | {"prompt": " "}, "empty_prompt"),
        ("rewardbench", pair("hep-go") | {"chosen": ["a"]}, "bad_type"),
        ("rewardbench", pair("alpacaeval-easy"), "duplicate_row"),
        ("rewardbench2", best_of("2", "Math", chosen=(1, 2)), "bad_type"),
        ("rewardbench2", best_of("2", "Math", rejected=()), "too_few_responses"),
        ("rewardbench2", best_of("2", "Ties"), "bad_type"),
        ("rewardbench2", best_of("ref:2", "Ties") | {"num_correct": 2}, "bad_type"),
        ("rm_bench", styles("chat", 2, chosen=(1, 2)), "bad_type"),
        ("rm_bench", styles("poetry"), "bad_type"),
        ("rm_bench", styles("chat", 2) | {"chosen": "text"}, "bad_type"),
        ("judgebench", judged("livecodebench", 2, label="A=B"), "bad_type"),
        ("judgebench", judged("gsm8k"), "bad_type"),
        ("rmb", compared("Pairwise_set/Honesty/S1"), "bad_type"),
        ("rmb", compared("Pairwise_set/Harmlessness/S2") | {"reject": "text"}, "missing_column"),
        (
            "rmb",
            compared("Pairwise_set/Harmlessness/S2") | {"conversation_input": [{"role": "user"}]},
            "missing_column",
        ),
        (
            "rmb",
            compared("Pairwise_set/Harmlessness/S2")
            | {"conversation_input": [{"role": "assistant", "content": "Hello."}]},
            "bad_type",
        ),
    ],
)
def test_a_row_that_does_not_fit_is_quarantined_with_the_reason(tmp_path, name, row, reason):
    good = COMPLETE[name]
    items, quarantined = read_rows_of(tmp_path, name, [*good, row])
    assert len(items) == len(good)
    assert list(quarantined["reason"]) == [reason]
    assert list(quarantined["source"]) == [f"rows.jsonl:{len(good) + 1}"]


def test_without_a_row_that_fits_the_reasons_are_said(tmp_path):
    with pytest.raises(DataError, match=r"no row of .* fits the schema of judgebench.*no column source"):
        read_rows_of(tmp_path, "judgebench", [pair("hep-go")])
    with pytest.raises(DataError, match="no prompt of judgebench to score"):
        score_benchmark("judgebench", [], [], seed=0)


def test_a_source_has_no_parameters_that_benchmarks_do_not_use():
    with pytest.raises(ParameterError, match="'judgebench': columns, rating_key of its source is for preference data"):
        read_benchmark("judgebench", PreferenceSource(path="x", columns={"prompt": "q"}, rating_key="x"))


def test_hidden_files_and_lone_surrogates_are_no_items(tmp_path):
    (tmp_path / "BoN_set").mkdir()
    rows = [compared("Pairwise_set/Harmlessness/S1", "1"), compared("Pairwise_set/Harmlessness/S1", "2")]
    rows[1]["chosen"]["answer"] += "\ud83d"
    (tmp_path / "BoN_set/rows.json").write_text(json.dumps(rows))
    (tmp_path / "BoN_set/._rows.json").write_bytes(b"\x00\x05")
    items, quarantined = read_benchmark("rmb", PreferenceSource(path=str(tmp_path)))
    assert [item.item_id for item in items] == ["1"] and list(quarantined["reason"]) == ["invalid_text"]


def test_an_unknown_benchmark_lists_the_known_ones():
    known = ", ".join(REWARD_BENCHMARKS)
    for call in (lambda: read_benchmark("arena"), lambda: score_benchmark("arena", [], [], seed=0)):
        with pytest.raises(ParameterError, match=f"unknown reward benchmark 'arena': choose one of {known}"):
            call()


def test_the_name_alone_means_the_authors_dataset(monkeypatch):
    asked = []

    def no_rows(source):
        asked.append((source.hub_id, source.split))
        return iter([])

    monkeypatch.setattr(benchmarks, "read_rows", no_rows)
    for name in list(REWARD_BENCHMARKS)[:-1]:
        with pytest.raises(DataError, match="no row of"):
            read_benchmark(name)
    assert asked == [
        ("allenai/reward-bench", "filtered"),
        ("allenai/reward-bench-2", "test"),
        ("THU-KEG/RM-Bench", "train"),
        ("ScalerLab/JudgeBench", "gpt"),
    ]
    with pytest.raises(ParameterError, match="'rmb' is not on the hub"):
        read_benchmark("rmb")
