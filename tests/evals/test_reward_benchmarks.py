"""Public reward benchmarks: their schemas, and their aggregations by hand arithmetic.

A response of these tests says its own score: "answer 2.5" is scored 2.5.
"""

import json
import math

import pytest

from rao_kedro.config.data_engineering import PreferenceSource
from rao_kedro.data.tables import QuarantineTable
from rao_kedro.errors import DataError, ParameterError
from rao_kedro.evals.reward_benchmarks import benchmarks
from rao_kedro.evals.reward_benchmarks.benchmarks import benchmark_names, prompt_groups, read_benchmark, score_benchmark
from rao_kedro.evals.reward_benchmarks.formats import REWARDBENCH
from rao_kedro.rewards.base import Reward, Scores

COLUMNS = ["benchmark", "section", "subset", "metric", "value", "low", "high", "n", "n_unscored"]


class Said(Reward):
    """The score that a response says, changed by a function."""

    identity = "said"

    def __init__(self, change=lambda score: score):
        self.change = change

    def annotate(self, groups):
        return [Scores.complete([self.change(float(r.split()[-1])) for r in group.responses]) for group in groups]


def said(*scores):
    return [f"answer {score}" for score in scores]


def pair(subset, n=0, chosen=1, rejected=0):
    [good, bad] = said(chosen, rejected)
    return {"id": n, "prompt": "Hi?", "chosen": good, "rejected": bad, "subset": subset}


def best_of(item_id, subset, chosen=(1,), rejected=(0, -1, -2)):
    counts = {"num_correct": len(chosen), "num_incorrect": len(rejected)}
    texts = {"chosen": said(*chosen), "rejected": said(*rejected)}
    return {"id": item_id, "prompt": "Hi?", **texts, "subset": subset, **counts}


def styles(domain, n=0, chosen=(1, 2, 3), rejected=(0, -1, -2)):
    return {"id": n, "prompt": "Hi?", "chosen": said(*chosen), "rejected": said(*rejected), "domain": domain}


def judged(source, n=0, a=1, b=0, label="A>B"):
    [first, second] = said(a, b)
    return {
        "pair_id": n,
        "question": "Hi?",
        "response_A": first,
        "response_B": second,
        "label": label,
        "source": source,
    }


def answers(*scores):
    return [{"llm_name": "x", "answer": text} for text in said(*scores)]


def compared(path, n="0", chosen=1, rejected=0):
    [chosen, reject] = answers(chosen, rejected)
    chat = [{"role": "user", "content": "Hi?", "language": "English"}]
    return {"pair_uid": n, "conversation_input": chat, "chosen": chosen, "reject": reject, "category_path": path}


def best_of_answers(path, n="0", best=1, losers=(0, -1)):
    chat = [{"role": "user", "content": "Hi?", "language": "English"}]
    best = {"bon_best": answers(best)[0], "loser_list": answers(*losers)}
    return {"bon_uid": n, "conversation_input": chat, **best, "category_path": path}


COMPLETE = {
    "rewardbench": [pair(subset) for subsets in REWARDBENCH.values() for subset in subsets],
    "rewardbench2": [
        *(best_of("1", subset) for subset in ("Factuality", "Precise IF", "Math", "Safety", "Focus")),
        best_of("ref:1", "Ties"),
        best_of("tied:1", "Ties", chosen=(1, 1)),
    ],
    "rm_bench": [styles(domain) for domain in ("chat", "code", "math", "safety-refuse", "safety-response")],
    "judgebench": [
        judged(source) for source in ("mmlu-pro-law", "livebench-reasoning", "livebench-math", "livecodebench")
    ],
    "rmb": [
        compared("Pairwise_set/Helpfulness/Chat/Discussion"),
        compared("Pairwise_set/Harmlessness/S1"),
        best_of_answers("BoN_set/Helpfulness/Chat/Discussion"),
        best_of_answers("BoN_set/Harmlessness/S1"),
    ],
}


def read(tmp_path, name, rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    items, quarantined = read_benchmark(name, PreferenceSource(path=str(path)))
    QuarantineTable.validate(quarantined)
    return items, quarantined


def scores(tmp_path, name, rows, change=lambda score: score):
    items, quarantined = read(tmp_path, name, rows)
    assert quarantined.empty
    return score_benchmark(name, items, Said(change).score(prompt_groups(name, items)), seed=0)


def by_name(table):
    return table.set_index(["section", "subset", "metric"])["value"].to_dict()


def headline(table):
    return by_name(table)["all", "all", "score"]


def test_there_is_a_complete_example_of_every_benchmark():
    assert list(COMPLETE) == benchmark_names()


# A perfect reward exceeds 1 in the subset Ties of RewardBench 2, whose weights sum to 1.01; a constant one has a
# quarter of the top of four responses in the other five subsets, and half of JudgeBench's ties.
@pytest.mark.parametrize(
    ("name", "best", "worst", "constant"),
    [
        ("rewardbench", 1, 0, 0),
        ("rewardbench2", (5 + 1.01) / 6, -0.01 / 6, 5 / 4 / 6),
        ("rm_bench", 1, 0, 0),
        ("judgebench", 1, 0, 0.5),
        ("rmb", 1, 0, 0),
    ],
)
def test_an_oracle_its_opposite_and_a_constant_get_what_the_definition_says(tmp_path, name, best, worst, constant):
    table = scores(tmp_path, name, COMPLETE[name])
    assert list(table) == COLUMNS and set(table["benchmark"]) == {name}
    assert headline(table) == pytest.approx(best)
    assert headline(scores(tmp_path, name, COMPLETE[name], lambda score: -score)) == pytest.approx(worst)
    assert headline(scores(tmp_path, name, COMPLETE[name], lambda score: 0.0)) == pytest.approx(constant)


def test_rewardbench_weights_subsets_with_their_published_sizes(tmp_path):
    # Reasoning: math-prm 1 of 4 won, hep-go 1 of 1, hep-cpp 0 of 1 (a tie is no win):
    # (984 * 1/4 + 164 * 1 + 164 * 0) / (984 + 164 + 164) = 410 / 1312 = 0.3125. Chat: 95 / (95 + 28). Without the other
    # sections there is no total.
    rows = [
        *(pair("math-prm", n, chosen=n) for n in (1, 0, -1, -2)),
        pair("hep-go"),
        pair("hep-cpp", chosen=0),
        pair("alpacaeval-hard"),
        pair("mt-bench-easy", chosen=-1),
    ]
    values = by_name(scores(tmp_path, "rewardbench", rows))
    assert values["Reasoning", "math-prm", "score"] == 0.25
    assert values["Reasoning", "all", "score"] == pytest.approx(0.3125)
    assert values["Chat", "all", "score"] == pytest.approx(95 / 123)
    assert math.isnan(values["Safety", "all", "score"]) and math.isnan(values["all", "all", "score"])


def test_rewardbench_counts_maths_as_much_as_all_code_and_each_section_alike(tmp_path):
    # Math won, all code lost: Reasoning 0.5. Everything else won: (1 + 1 + 1 + 0.5) / 4.
    rows = [pair(row["subset"], chosen=-1 if "hep" in row["subset"] else 1) for row in COMPLETE["rewardbench"]]
    values = by_name(scores(tmp_path, "rewardbench", rows))
    assert values["Reasoning", "all", "score"] == pytest.approx(0.5)
    assert values["all", "all", "score"] == pytest.approx(0.875)


def test_rewardbench2_shares_the_top_among_tied_responses(tmp_path):
    # Math: best alone 1, best with one other 1/2, second 0.
    rows = [
        best_of("1", "Math"),
        best_of("2", "Math", rejected=(1, 0, -1)),
        best_of("3", "Math", rejected=(2, 1, 0)),
    ]
    table = scores(tmp_path, "rewardbench2", rows)
    assert by_name(table)["Math", "all", "score"] == pytest.approx(0.5)
    assert math.isnan(headline(table))


def test_rewardbench2_weights_accuracy_and_margins_of_ties(tmp_path):
    # ref:1 has margin 2 - 1 = 1, ref:2 margin 0 - 1 = -1: accuracy 1/2. tied:1 has spread 5 - 4 = 1 and margin
    # 4 - 1 = 3, tied:2 spread 2 and margin 1: accuracy 1; preferred is 3 > 1 but not 1 > 2: 1/2; hard is neither
    # min(1, 3) > 1 nor min(-1, 1) > 2: 0. tanh(1 / 1 - 1) = 0 and tanh(-1 / 2 - 1): their mean is the last term. tied:3
    # without a ref counts in the accuracy alone: it stays 1.
    rows = [
        best_of("ref:1", "Ties", (2,), (1, 0)),
        best_of("tied:1", "Ties", (5, 4), (1,)),
        best_of("ref:2", "Ties", (0,), (1,)),
        best_of("tied:2", "Ties", (3, 1), (0,)),
        best_of("tied:3", "Ties", (9, 1), (0,)),
    ]
    table = scores(tmp_path, "rewardbench2", rows)
    values = by_name(table)
    assert values["Ties", "all", "ref_accuracy"] == 0.5 and values["Ties", "all", "tied_accuracy"] == 1
    assert values["Ties", "all", "correctness_preferred"] == 0.5
    assert values["Ties", "all", "correctness_preferred_hard"] == 0
    expected = 0.3 * 1 + 0.3 * 0.5 + 0.2 * 0.5 + 0.2 * 0 + 0.01 * math.tanh(-1.5) / 2
    assert values["Ties", "all", "score"] == pytest.approx(expected)
    total = table.query("section == 'Ties' and metric == 'score'").iloc[0]
    assert total["n"] == 5 and math.isnan(total["low"])


def test_rm_bench_divides_the_matrix_of_styles(tmp_path):
    # Rows are styles of chosen, columns of rejected. First prompt, 1 2 3 against 0.5 1.5 2.5:
    # + - -   hard 0/3, normal 3/3, easy 3/3, all 6/9
    # + + -
    # + + +
    # Second, 2 1 0 against 1 1 1 (ties are no wins):
    # + + +   hard 2/3, normal 1/3, easy 0/3, all 3/9
    # - - -
    # - - -
    # Safety: two prompts won and one of another subset lost, 2/3. All: chat 1/2, code 1, math 1, safety 2/3.
    rows = [
        styles("chat", 1, rejected=(0.5, 1.5, 2.5)),
        styles("chat", 2, (2, 1, 0), (1, 1, 1)),
        styles("code"),
        styles("math"),
        styles("safety-refuse", 1),
        styles("safety-refuse", 2),
        styles("safety-response", 1, rejected=(4, 4, 4)),
    ]
    values = by_name(scores(tmp_path, "rm_bench", rows))
    chat = {metric: values["chat", "all", metric] for metric in ("hard", "normal", "easy", "score")}
    assert chat == pytest.approx({"hard": 1 / 3, "normal": 2 / 3, "easy": 1 / 2, "score": 1 / 2})
    assert values["safety", "all", "hard"] == pytest.approx(2 / 3) and values["safety", "safety-response", "hard"] == 0
    assert ("chat", "chat", "score") not in values
    assert values["all", "all", "hard"] == pytest.approx((1 / 3 + 1 + 1 + 2 / 3) / 4)
    assert values["all", "all", "score"] == pytest.approx((1 / 2 + 1 + 1 + 2 / 3) / 4)


def test_judgebench_counts_pairs_alike_whichever_response_is_better(tmp_path):
    # Knowledge: one won and one tied, 3/4. Coding: B is better and scored higher, then B better and A higher, then A
    # better and higher, 2/3. Of all five pairs 3.5 / 5, and not the mean of two categories.
    rows = [
        judged("mmlu-pro-law"),
        judged("mmlu-pro-computer science", a=0),
        judged("livecodebench", 1, a=0, b=1, label="B>A"),
        judged("livecodebench", 2, label="B>A"),
        judged("livecodebench", 3, label="A>B"),
    ]
    table = scores(tmp_path, "judgebench", rows)
    values = by_name(table)
    assert values["Knowledge", "mmlu-pro-law", "score"] == 1 and values["Knowledge", "all", "score"] == 0.75
    assert values["Coding", "all", "score"] == pytest.approx(2 / 3)
    assert values["all", "all", "score"] == pytest.approx(3.5 / 5)
    total = table.query("section == 'all'").iloc[0]
    assert total["n"] == 5 and total["low"] < 0.7 < total["high"]


def test_rmb_counts_a_best_response_that_beats_all_others_and_reads_nested_directories(tmp_path):
    # Helpfulness pairwise 1 of 2 (a tie is no win), best-of-N 1 of 2 (one loser is as good), harmlessness 1 and 0:
    # (1/2 + 1/2 + 1 + 0) / 4.
    files = {
        "Pairwise_set/Helpfulness/Chat/Discussion": [
            compared("Pairwise_set/Helpfulness/Chat/Discussion", "1"),
            compared("Pairwise_set/Helpfulness/Chat/Discussion", "2", rejected=1),
        ],
        "BoN_set/Helpfulness/Code": [
            best_of_answers("BoN_set/Helpfulness/Code", "1"),
            best_of_answers("BoN_set/Helpfulness/Code", "2", losers=(0, 1)),
        ],
        "Pairwise_set/Harmlessness/S1": [compared("Pairwise_set/Harmlessness/S1")],
        "BoN_set/Harmlessness/S1": [best_of_answers("BoN_set/Harmlessness/S1", losers=(2,))],
    }
    for name, rows in files.items():
        path = tmp_path / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows))
    items, quarantined = read_benchmark("rmb", PreferenceSource(path=str(tmp_path)))
    assert len(items) == 6 and quarantined.empty
    values = by_name(score_benchmark("rmb", items, Said().score(prompt_groups("rmb", items)), seed=0))
    assert values["Helpfulness pairwise", "Chat/Discussion", "score"] == 0.5
    assert values["Helpfulness best-of-N", "all", "score"] == 0.5
    assert values["Harmlessness best-of-N", "S1", "score"] == 0
    assert values["all", "all", "score"] == 0.5
    assert len(read_benchmark("rmb", PreferenceSource(path=str(tmp_path), skip_rows=1, max_rows=2))[0]) == 2


@pytest.mark.parametrize("name", list(COMPLETE))
def test_a_prompt_that_could_not_be_scored_is_counted_and_left_out(tmp_path, name):
    [first, *_] = COMPLETE[name]
    lost = json.loads(json.dumps(first).replace("answer 0", "answer nan"))
    key = next(key for key in first if key.endswith("id"))
    table = scores(tmp_path, name, [{**first, key: "7"}, {**lost, key: "8"}])
    row = table[table["n"] > 0].iloc[0]
    assert (row["value"], row["n"], row["n_unscored"]) == (1, 1, 1)
    only = scores(tmp_path, name, [lost])
    assert only["value"].isna().all() and (only["n"] == 0).all() and only["n_unscored"].max() == 1


def test_an_unscored_reference_leaves_only_the_tied_prompt(tmp_path):
    rows = [best_of("ref:1", "Ties", ("nan",), (0,)), best_of("tied:1", "Ties", (3, 2), (0,))]
    table = scores(tmp_path, "rewardbench2", rows).query("section == 'Ties'").set_index("metric")
    counts = table[["n", "n_unscored"]].T.to_dict("list")
    assert counts["ref_accuracy"] == counts["correctness_preferred_hard"] == counts["correctness_margin"] == [0, 1]
    assert counts["tied_accuracy"] == counts["correctness_preferred"] == [1, 0]


def test_intervals_are_those_of_means_over_prompts(tmp_path):
    rows = [pair("math-prm", n, chosen=n % 2) for n in range(20)]
    table = scores(tmp_path, "rewardbench", rows).set_index(["section", "subset"])
    mean, section = table.loc[("Reasoning", "math-prm")], table.loc[("Reasoning", "all")]
    assert mean["low"] < mean["value"] == 0.5 < mean["high"]
    assert section["value"] == 0.5 and math.isnan(section["low"]) and math.isnan(section["high"])


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
    items, quarantined = read(tmp_path, name, [*good, row])
    assert len(items) == len(good)
    assert list(quarantined["reason"]) == [reason]
    assert list(quarantined["source"]) == [f"rows.jsonl:{len(good) + 1}"]


def test_without_a_row_that_fits_the_reasons_are_said(tmp_path):
    with pytest.raises(DataError, match=r"no row of .* fits the schema of judgebench.*no column source"):
        read(tmp_path, "judgebench", [pair("hep-go")])
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
    known = ", ".join(benchmark_names())
    for call in (lambda: read_benchmark("arena"), lambda: score_benchmark("arena", [], [], seed=0)):
        with pytest.raises(ParameterError, match=f"unknown reward benchmark 'arena': choose one of {known}"):
            call()


def test_the_name_alone_means_the_authors_dataset(monkeypatch):
    asked = []

    def no_rows(source):
        asked.append((source.hub_id, source.split))
        return iter([])

    monkeypatch.setattr(benchmarks, "read_rows", no_rows)
    for name in benchmark_names()[:-1]:
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
