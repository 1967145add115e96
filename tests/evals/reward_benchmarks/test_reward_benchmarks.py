"""Public reward benchmarks: their aggregations, by hand arithmetic."""

import json
import math

import pytest
from reward_rows import COMPLETE, best_of, best_of_answers, compared, judged, pair, read_rows_of, styles

from rao_kedro.config.data_engineering import PreferenceSource
from rao_kedro.evals.reward_benchmarks.benchmarks import prompt_groups, read_benchmark, score_benchmark
from rao_kedro.rewards.base import Reward, Scores

COLUMNS = ["benchmark", "section", "subset", "metric", "value", "low", "high", "n", "n_unscored"]


class Said(Reward):
    """The score that a response says, changed by a function."""

    identity = "said"

    def __init__(self, change=lambda score: score):
        self.change = change

    def annotate(self, groups):
        return [Scores.complete([self.change(float(r.split()[-1])) for r in group.responses]) for group in groups]


def scores(tmp_path, name, rows, change=lambda score: score):
    items, quarantined = read_rows_of(tmp_path, name, rows)
    assert quarantined.empty
    return score_benchmark(name, items, Said(change).score(prompt_groups(name, items)), seed=0)


def by_name(table):
    return table.set_index(["section", "subset", "metric"])["value"].to_dict()


def headline(table):
    return by_name(table)["all", "all", "score"]


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
