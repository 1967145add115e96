"""AlpacaEval's numbers against the published leaderboard, and its judging against a judge that answers by rule."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from assets import ALPACA_MODELS, alpaca_annotations, alpaca_table

from rao_kedro.errors import DataError, GenerationError
from rao_kedro.evals.alpaca_eval import judge
from rao_kedro.evals.alpaca_eval.judge import compare_with_baseline, make_dialogues, pair_with_baseline
from rao_kedro.evals.alpaca_eval.win_rates import (
    import_package,
    length_controlled_win_rate,
    win_rate,
    win_rate_of_weights,
)
from rao_kedro.judges import bias as judge_statistics
from rao_kedro.judges.chat_completions import ChatServer
from rao_kedro.judges.metering import Prices, Usage


def published(name):
    return alpaca_table(name).set_index("model")


@pytest.mark.parametrize("model", ALPACA_MODELS)
def test_win_rates_are_the_published_ones(model):
    expected = published("published_leaderboard.csv").loc[model]
    found = win_rate(alpaca_annotations(model))
    for name in ("win_rate", "standard_error", "discrete_win_rate"):
        assert found[name] == pytest.approx(expected[name], abs=1e-6)
    for name in ("n_wins", "n_wins_base", "n_draws", "n_total"):
        assert found[name] == expected[name]


@pytest.mark.parametrize("model", ALPACA_MODELS)
def test_length_controlled_win_rates_are_the_published_ones(model):
    expected = published("published_leaderboard.csv").loc[model, "length_controlled_winrate"]
    difficulty = alpaca_table("instruction_difficulty_recovered.csv")
    of_weights = win_rate_of_weights(published("published_glm_weights.csv").loc[model], difficulty)
    assert of_weights == pytest.approx(expected, abs=1e-4)
    gamed = alpaca_table("gamed_surrogate.csv")
    fitted = length_controlled_win_rate(alpaca_annotations(model), difficulty, gamed)
    assert fitted["length_controlled_winrate"] == pytest.approx(expected, abs=0.2)
    assert fitted["n_total"] == 805 and fitted["lc_standard_error"] > 0


def test_the_difficulty_is_that_of_the_row_not_of_the_instruction():
    difficulty = alpaca_table("instruction_difficulty_recovered.csv").set_index("index")
    gamed, table = alpaca_table("gamed_surrogate.csv"), alpaca_annotations("claude-2")
    backwards = table.iloc[::-1]  # rows keep their index, and so their difficulty
    lengths = [length_controlled_win_rate(t, difficulty["instruction_difficulty"], gamed) for t in (table, backwards)]
    assert lengths[0]["length_controlled_winrate"] == pytest.approx(lengths[1]["length_controlled_winrate"], abs=0.05)
    renumbered = backwards.reset_index(drop=True)
    other = length_controlled_win_rate(renumbered, difficulty, gamed)["length_controlled_winrate"]
    assert abs(other - lengths[0]["length_controlled_winrate"]) > 0.05


def test_a_table_without_preferences_or_difficulties_is_refused():
    with pytest.raises(DataError, match="no column 'preference', only output_1"):
        win_rate(pd.DataFrame({"output_1": ["a"]}))
    table = pd.DataFrame({"preference": [1.0, 2.0], "output_1": ["a", "bb"], "output_2": ["c", "d"]})
    gamed = pd.DataFrame({"preference": [0.5], "std_delta_len": [0.0], "instruction_difficulty": [0.0]})
    with pytest.raises(DataError, match="1 instructions have no difficulty, the first has the index 1"):
        length_controlled_win_rate(table, pd.Series([0.0]), gamed)


# Judging. A judge that answers by rule stands in for GPT-4.

INSTRUCTIONS = [f"Name {n} primes." for n in range(12)]


def outputs(generator, *texts):
    texts = texts if len(texts) > 1 else texts * len(INSTRUCTIONS)
    return pd.DataFrame({"instruction": INSTRUCTIONS, "output": texts, "generator": generator})


BASELINE = outputs("base", *(f"{'7' * (1 + n % 3)}" for n in range(12)))
MODEL = outputs("model", *(f"{'3' * (1 + n % 2)}" for n in range(12)))
COMPARED = pair_with_baseline(BASELINE, MODEL)


def shown_outputs(request):
    return re.findall(r'"output": """(.*?)"""', request["messages"][-1]["content"])


def judged_by(rule, compared=COMPARED, swapped=False):
    """Annotate with a judge whose log-prob of the first output is what `rule` says of the two it sees."""
    from chat_server import chat_server, reply

    def answer(request, number):
        p = rule(*shown_outputs(request))
        top = {"m": math.log(p), "M": math.log(1 - p), "x": -3.0}
        return reply(("m" if p > 0.5 else "M", top))

    with chat_server(answer) as (url, requests):
        return compare_with_baseline(compared, ChatServer(url, "rule", max_retries=0), swapped), requests


def prefers_threes(first, second):
    return 0.9 if "3" in first else 0.2


def test_a_preference_is_for_the_output_whatever_its_place():
    table, requests = judged_by(prefers_threes)
    assert table[judge.SWITCHED].nunique() == 2, "both orders should occur"
    expected = np.where(table[judge.SWITCHED], 1.9, 1.8)
    assert list(table["preference"]) == pytest.approx(list(expected))
    assert all(r["max_tokens"] == 1 and r["temperature"] == 1.0 and r["top_logprobs"] == 5 for r in requests)
    assert win_rate(table)["win_rate"] == pytest.approx(100 * (expected - 1).mean())


def test_swapping_the_order_asks_the_other_way_around():
    table, _ = judged_by(prefers_threes)
    swapped, _ = judged_by(prefers_threes, swapped=True)
    assert (table[judge.SWITCHED] != swapped[judge.SWITCHED]).all()
    assert list(table["preference"] + swapped["preference"]) == pytest.approx([1.9 + 1.8] * 12)


def test_exchanging_the_models_mirrors_the_preferences():
    table, _ = judged_by(prefers_threes)
    mirrored, _ = judged_by(prefers_threes, pair_with_baseline(MODEL, BASELINE), swapped=True)
    assert list(mirrored["preference"]) == pytest.approx(list(3 - table["preference"]))


def test_a_model_against_itself_is_a_draw_that_nobody_is_asked_about():
    table, requests = judged_by(prefers_threes, pair_with_baseline(BASELINE, BASELINE.assign(generator="again")))
    assert list(table["preference"]) == [1.5] * 12 and requests == []
    assert win_rate(table)["win_rate"] == 50.0


def test_a_judge_that_always_takes_the_first_is_exposed():
    orders = [judged_by(lambda first, second: 0.99, swapped=swapped)[0] for swapped in (False, True)]
    bias = judge_statistics.position_bias(*orders).set_index("metric")
    assert bias.loc["first_preferred", "value"] == pytest.approx(0.99) and bias.loc["consistent", "value"] == 0
    fair = [judged_by(lambda first, second: 0.9 if "3" in first else 0.1, swapped=s)[0] for s in (False, True)]
    bias = judge_statistics.position_bias(*fair).set_index("metric")
    assert bias.loc["first_preferred", "value"] == pytest.approx(0.5) and bias.loc["consistent", "value"] == 1


def test_a_judge_that_likes_length_is_exposed():
    table, _ = judged_by(lambda first, second: 0.5 + 0.1 * (len(first) - len(second)))
    bias = judge_statistics.length_bias(table).set_index("metric")
    assert bias.loc["longer_preferred", "value"] == 1.0 and bias.loc["length_correlation", "value"] > 0.95
    # 8 of 12 pairs differ in length. Clopper and Pearson: 8 of 8 are at least 0.025 ** (1 / 8).
    assert bias.loc["longer_preferred", ["low", "high", "n"]].tolist() == [pytest.approx(0.025 ** (1 / 8)), 1.0, 8]


def test_two_judges_agree_as_far_as_they_name_the_same_winners():
    likes_length, _ = judged_by(lambda first, second: 0.5 + 0.1 * (len(first) - len(second)))
    opposite = likes_length.assign(preference=3 - likes_length["preference"])
    first_is_unsure = likes_length.assign(preference=likes_length["preference"].where(likes_length.index > 0))
    same, other = (
        judge_statistics.agreement(likes_length, others).set_index("metric") for others in (first_is_unsure, opposite)
    )
    assert same["value"].tolist() == [1.0, 1.0] and same["n"].tolist() == [11, 11]
    # Of 12 pairs the model wins 2, the baseline 6, and 4 are ties, which alone agree: 4/12. By chance it would be
    # (2 * 6 + 6 * 2 + 4 * 4) / 144 = 40/144, so kappa = (48 - 40) / (144 - 40).
    assert other["value"].tolist() == pytest.approx([4 / 12, 1 / 13]) and other["n"].tolist() == [12, 12]
    assert other.loc["agreement", "low"] < 4 / 12 < other.loc["agreement", "high"]


def asked_with(answer, verdict="logprobs", **options):
    from chat_server import chat_server

    with chat_server(answer) as (url, requests):
        return compare_with_baseline(
            COMPARED, ChatServer(url, "rule", max_retries=0, **options), verdict=verdict
        ), requests


def test_a_pair_whose_judgment_is_refused_or_of_no_use_has_a_reason_and_the_others_count():
    from chat_server import refusal, reply

    def answer(request, number):
        asked = request["messages"][-1]["content"]
        if "Name 3 primes" in asked:
            return refusal(400, "flagged by our content filter")
        return reply(("I", {"I": -0.1})) if "Name 4 primes" in asked else reply(("m", {"m": -0.1, "M": -2.3}))

    table, requests = asked_with(answer)
    assert len(requests) == 12 and table["preference"].isna().tolist() == [n in (3, 4) for n in range(12)]
    assert "flagged by our content filter" in table.loc[3, "unscored_reason"]
    assert table.loc[4, "unscored_reason"] == "the judge named neither output: 'I'"
    assert set(table["unscored_reason"].drop([3, 4])) == {""}
    assert win_rate(table)["n_total"] == 10


def test_an_output_that_the_model_did_not_give_is_not_judged():
    reasons = ["the answer is empty" if n == 2 else "" for n in range(12)]
    table, requests = judged_by(prefers_threes, pair_with_baseline(BASELINE, MODEL.assign(unscored_reason=reasons)))
    assert len(requests) == 11 and table["preference"].isna().tolist() == [n == 2 for n in range(12)]
    assert table["unscored_reason"].tolist() == reasons


def test_a_judge_that_thinks_is_told_to_be_read_as_text():
    from chat_server import reply

    for answer in (reply(("<think>", {"<think>": 0.0}), finish_reason="length"), reply(("m", {}), reasoning="Hm")):
        with pytest.raises(
            GenerationError, match=r"the judge thought before its verdict.*set the judge's verdict: text"
        ):
            asked_with(lambda request, number, answer=answer: answer)


def test_a_verdict_is_read_from_the_last_line_of_the_text():
    from chat_server import reply

    def answer(request, number):
        first, second = shown_outputs(request)
        said = "m" if "3" in first else "M" if "3" in second else "?"
        return reply((f"<think>I'm for m or M.</think>\n\nI'm sure:\n**{said}**", {}))

    table, requests = asked_with(answer, verdict="text")
    assert table["preference"].tolist() == [2.0] * 12 and set(table["unscored_reason"]) == {""}
    assert {(r["max_tokens"], r["temperature"], r.get("logprobs")) for r in requests} == {(2048, 0.0, None)}


def test_what_is_asked_is_what_the_package_asks(tmp_path, monkeypatch):
    """The package's own annotator, whose completions are caught: same prompts, same order of the outputs."""
    asked = []

    def completions(prompts, **kwargs):
        asked.extend(prompts)
        empty = [{"logprobs": {"content": [{"top_logprobs": [{"token": "m", "logprob": 0.0}]}]}} for _ in prompts]
        return {"completions": ["m"] * len(prompts), "completions_all": empty}

    monkeypatch.setattr("alpaca_eval.annotators.base.get_fn_completions", lambda name: completions)
    annotator = import_package("annotators").PairwiseAnnotator(
        annotators_config="weighted_alpaca_eval_gpt4_turbo", caching_path=None
    )
    theirs = pd.DataFrame(annotator.annotate_pairs(COMPARED.drop(columns=["generator_1", "generator_2"])))
    ours = make_dialogues(COMPARED, judge._draw_order(COMPARED))
    expected = [import_package("utils").prompt_to_chatml(prompt) for prompt in asked]
    assert sorted(map(json.dumps, ours)) == sorted(map(json.dumps, expected))
    sure_of_the_first, _ = judged_by(lambda first, second: 1 - 1e-12)
    assert list(sure_of_the_first["preference"]) == pytest.approx(list(theirs["preference"]))


def test_pairs_keep_the_order_and_the_index_of_the_baseline():
    some = MODEL.iloc[[5, 2]]
    compared = pair_with_baseline(BASELINE, some)
    assert list(compared.index) == [2, 5] and list(compared["output_1"]) == list(BASELINE["output"][[2, 5]])
    with pytest.raises(DataError, match="1 instructions are not the baseline's, for example 'Sing"):
        pair_with_baseline(BASELINE, pd.DataFrame({"instruction": ["Sing."], "output": ["la"], "generator": ["model"]}))
    with pytest.raises(DataError, match=r"'Name 5 primes.*is answered twice"):
        pair_with_baseline(BASELINE, pd.concat([some, some]))


def test_usage_counts_tokens_and_their_price():
    used = Usage(asked=3, prompt_tokens=1200, completion_tokens=3).plus(Usage(1, 400, 1, 5, 2000, 5))
    assert used == (4, 1600, 4, 5, 2000, 5) and used.since(Usage(asked=3)) == (1, 1600, 4, 5, 2000, 5)
    assert Prices(10.0, 30.0).cost(used.prompt_tokens, used.completion_tokens) == pytest.approx(0.01612)
