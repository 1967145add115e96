"""Ratings: one scale per group, ranks turned around, texts, and what is no rating."""

import math
from decimal import Decimal

import pytest

from rao_kedro.data.quarantine import UnusableRow
from rao_kedro.data.ratings import ORDER, choose_ratings, rate_objects, rate_pair, read_ratings


@pytest.mark.parametrize(
    ("written", "values", "by"),
    [
        ([1, 2.5, Decimal("3")], [1.0, 2.5, 3.0], "score"),
        (["4", " 4.5 ", "-1e-1", ".9"], [4.0, 4.5, -0.1, 0.9], "score"),
        (["5/10", "4.5 / 10", "3 out of 10"], [5.0, 4.5, 3.0], "score (of 10)"),
        ([None, "N/A", ""], [None, None, None], "score"),
    ],
)
def test_numbers_and_texts_of_numbers_are_ratings(written, values, by):
    ratings = read_ratings("score", written)
    assert (list(ratings.values), ratings.by) == (values, by)


@pytest.mark.parametrize("value", [True, "True", "good", "11/10", "-1/5", [4], {"overall": 4}, 10**400, b"4", "4,5"])
def test_what_is_no_rating_says_so(value):
    [rating] = read_ratings("score", [value]).values
    assert isinstance(rating, UnusableRow) and rating.reason == "bad_rating"


def test_a_nested_rating_names_the_keys_to_choose_from():
    [rating] = read_ratings("score", [{"overall": 4, "style": 1}]).values
    assert "set rating_key to one of score.overall, score.style" in rating.detail


def test_nan_and_infinity_stay_for_the_group_to_drop():
    assert all(not math.isfinite(value) for value in read_ratings("score", ["nan", "inf", float("nan")]).values)


@pytest.mark.parametrize("values", [["4/5", "7/10"], ["4/5", 4], ["4", "7/10"]])
def test_ratings_of_different_scales_are_no_preference(values):
    with pytest.raises(UnusableRow, match="bad_rating: ratings of score are on different scales"):
        read_ratings("score", values)


@pytest.mark.parametrize(
    "name",
    [
        *("rank", "Ranking", "ranks", "gpt4_rank", "meta.rank", "rank.gpt4", "ranks.gpt4", "humanRank"),
        *("rank_gpt4", "rank_of_human", "HUMAN-RANK", "rankByHuman", "gpt4.rankings.mean"),
    ],
)
def test_of_ranks_the_lowest_is_best_and_that_is_said(name):
    ratings = read_ratings(name, [1, "2", 3])
    assert (list(ratings.values), ratings.by) == ([-1.0, -2.0, -3.0], f"{name} (the lowest is best)")
    assert list(read_ratings("frank", [1]).values) == list(read_ratings("cranky.score", [1]).values) == [1.0]


def test_a_group_is_rated_by_one_field():
    assert list(choose_ratings({"fine": [4.0, 3.0], "overall": [8.0, 9.0]}).values) == [4.0, 3.0]
    # Mixed, the second would win with 9 over 4, although on both scales together the first is said to be better.
    assert choose_ratings({"fine": [4.0, None], "overall": [9.5, 9.0]}).by == "overall"
    assert choose_ratings({"fine": [4.0, float("nan")], "overall": [9.5, 9.0]}).by == "overall"
    partly = choose_ratings({"fine": [4.0, None, 3.0], "overall": [None, 9.0, None]})
    assert (partly.by, list(partly.values)) == ("fine", [4.0, None, 3.0])


def test_objects_are_rated_by_a_dotted_key_or_the_mean_of_aspects():
    responses = [
        {"annotations": {a: {"Rating": r} for a, r in zip("ab", ratings, strict=True)}}
        for ratings in (("5", "4"), ("1", "N/A"))
    ]
    assert list(rate_objects(responses, ["annotations.a.Rating"]).values) == [5.0, 1.0]
    assert list(rate_objects(responses, ["annotations.*.Rating"]).values) == [4.5, None]
    assert list(rate_objects([{"a.b": 1}, {"a": {"b": 2}}], ["a.b"]).values) == [1.0, 2.0]
    with pytest.raises(UnusableRow, match="no response has a field x: name it with rating_key"):
        rate_objects(responses, ["x"])


@pytest.mark.parametrize(
    "row",
    [
        {"score_chosen": 9, "score_rejected": 4},
        {"chosen_score": 9, "rejected_score": 4},
        {"chosen-rating": 9, "rejected-rating": "4"},
        {"rating-chosen": 9, "rating-rejected": 4},
        {"chosen_avg_rating": "9", "rejected_avg_rating": "4"},
        {"metadata": {"chosen_score": 9, "rejected_score": 4}},
        {"metadata": '{"score_chosen": 9, "score_rejected": 4}', "score_chosen": None, "score_rejected": None},
    ],
)
def test_ratings_of_a_pair_stand_in_either_order_in_the_row_or_its_metadata(row):
    ratings = rate_pair(row, None, 1, 1)
    assert list(ratings.values) == [9.0, 4.0] and "chosen" in ratings.by and "rejected" in ratings.by


def test_a_pair_without_ratings_is_rated_by_its_order():
    for row in (
        {},
        {"score_chosen": "", "score_rejected": ""},
        {"metadata": "from the web"},
        {"metadata": ["x"]},
        {"metadata": None},
    ):
        ratings = rate_pair(row, None, 1, 2)
        assert (list(ratings.values), ratings.by) == ([1.0, 0.0, 0.0], ORDER)


def test_ranks_of_a_pair_are_turned_around():
    assert list(rate_pair({"chosen_rank": 1, "rejected_rank": 3}, None, 1, 1).values) == [-1.0, -3.0]


def test_a_pair_that_contradicts_its_ratings_is_no_preference():
    with pytest.raises(UnusableRow, match="contradictory_ratings: score_chosen, score_rejected rate a rejected"):
        rate_pair({"score_chosen": 1, "score_rejected": 3}, None, 1, 1)


def test_the_rating_key_of_a_pair_is_used_or_missed():
    row = {"score_chosen": 9, "score_rejected": 4, "chosen_style": 3, "rejected_style": 2}
    assert list(rate_pair(row, "style", 1, 1).values) == [3.0, 2.0]
    with pytest.raises(UnusableRow, match="no columns chosen_taste and rejected_taste, which rating_key names"):
        rate_pair(row, "taste", 1, 1)


def test_several_rejected_responses_have_a_rating_each():
    row = {"chosen_score": 9, "rejected_score": [1, 2]}
    assert list(rate_pair(row, None, 1, 2).values) == [9.0, 1.0, 2.0]
    with pytest.raises(UnusableRow, match="1 ratings of 2 responses"):
        rate_pair(row | {"rejected_score": 4}, None, 1, 2)
