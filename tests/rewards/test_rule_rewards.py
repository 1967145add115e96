"""Rules, ratings and combinations of rewards, by hand arithmetic."""

import math
from dataclasses import replace

import pytest

from rao_kedro.config.rewards import RewardParameters
from rao_kedro.errors import DataError, ParameterError
from rao_kedro.rewards import PromptGroup, make_reward
from rao_kedro.rewards.registry import build_reward

BRIEF = PromptGroup(
    "brief",
    [{"role": "user", "content": "Be brief."}],
    ["one two", "one, two, three, four"],
    requirements='[{"check": "max_words", "limit": 2}, {"check": "no_commas"}]',
    ratings=[0.0, 1.0],
)
FREE = PromptGroup("free", [{"role": "user", "content": "Talk."}], ["a b c", ""], ratings=[3.0, 2.0])


def letters(messages, response):
    return len(response) - len(messages[0]["content"])


def length(messages, response):
    return len(response)


def nothing(messages, response):
    return None


def test_the_requirements_of_a_prompt_are_its_rules():
    scores = make_reward("rules").annotate([BRIEF, FREE])
    assert scores[0].rewards == [1.0, (0.0 + 0.25) / 2]  # four words of two allowed; three commas
    assert all(map(math.isnan, scores[1].rewards)) and "no requirements" in scores[1].failures[0]


def test_requirements_of_all_prompts_stand_in_for_a_prompts_own():
    rules = make_reward("rules", requirements=[{"check": "min_words", "limit": 4}])
    assert rules.score([BRIEF, FREE]) == [[0.5, 1.0], [0.75, 0.0]]


def test_a_function_of_the_users_scores_by_its_import_path():
    assert make_reward("rules", function=f"{__name__}:letters").score([BRIEF]) == [[7 - 9, 21 - 9]]
    with pytest.raises(DataError, match=r"returned None for a response of group brief; it must be a number"):
        make_reward("rules", function=f"{__name__}:nothing").score([BRIEF])


def test_a_function_is_given_the_answer_without_its_thinking_and_not_asked_about_a_cut_one():
    group = replace(BRIEF, responses=["<think>so long</think>four", "four", "<think>never"])
    [scores] = make_reward("rules", function=f"{__name__}:length").annotate([group])
    assert scores.rewards[:2] == [4, 4] and math.isnan(scores.rewards[2])
    assert scores.failures == ["", "", "the thinking was cut, so the response has no answer"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"function": "no_such_module:f"}, r"cannot be imported .*package\.module:name"),
        ({"function": "math:no_such_function"}, "cannot be imported"),
        ({"function": "math:pi"}, "is not a function"),
        ({"function": "math:sqrt", "requirements": [{"check": "no_commas"}]}, "requirements or function, not both"),
        ({"requirements": [{"check": "rhymes"}]}, "there is no check 'rhymes'"),
    ],
)
def test_rules_that_cannot_be_applied_are_refused_when_they_are_made(parameters, message):
    with pytest.raises(ParameterError, match=message):
        make_reward("rules", **parameters)


def test_ratings_are_rewards_and_a_response_without_one_has_none():
    unrated = PromptGroup("new", BRIEF.messages, ["x"])
    scores = make_reward("ratings").annotate([BRIEF, unrated])
    assert scores[0].rewards == [0.0, 1.0]
    assert math.isnan(scores[1].rewards[0]) and scores[1].failures == ["the response has no rating"]


def test_a_weighted_sum_adds_and_fails_where_a_part_does():
    parts = [{"name": "rules", "weight": 2.0}, {"name": "ratings", "weight": -0.5}]
    scores = make_reward("combined", parts=parts).annotate([BRIEF, FREE])
    assert scores[0].rewards == [2.0, 2 * 0.125 - 0.5]
    assert all(map(math.isnan, scores[1].rewards)) and "no requirements" in scores[1].failures[0]


def test_the_first_part_that_scores_decides():
    parts = [{"name": "rules"}, {"name": "ratings", "weight": 10.0}]
    scores = make_reward("combined", parts=parts, mode="first").annotate([BRIEF, FREE])
    assert scores[0].rewards == [1.0, 0.125] and scores[1].rewards == [30.0, 20.0]
    assert scores[1].failures == ["", ""]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"parts": []}, "parts names no reward"),
        ({"parts": [{"name": "magic"}]}, "unknown reward 'magic'"),
        ({"parts": [{"name": "rules", "factor": 2}]}, "a part has no field factor"),
        ({"parts": [{"name": "rules"}], "mode": "mean"}, "mode is 'mean'; it must be weighted or first"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(parameters, message):
    with pytest.raises(ParameterError, match=message):
        make_reward("combined", **parameters)


def test_defaults_reach_the_parts_that_take_them_and_nothing_else():
    parts = [{"name": "rules"}, {"name": "bradley_terry", "parameters": {"max_length": 7}}]
    defaults = {"model_dir": "m", "mixed_precision": "no"}
    parameters = RewardParameters(name="combined", parameters={"parts": parts}, defaults=defaults)
    _, trained = build_reward(parameters).parts
    assert (trained.model_dir, trained.mixed_precision, trained.max_length) == ("m", "no", 7)
    assert build_reward(RewardParameters(parameters={"model_dir": "mine"}, defaults=defaults)).model_dir == "mine"
