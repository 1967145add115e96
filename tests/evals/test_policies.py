"""Generations joined with their scores."""

import math

import pandas as pd
import pytest

from rao_kedro.errors import DataError
from rao_kedro.evals.policies import join_scores
from rao_kedro.evals.tables import ScoredGenerationTable

GENERATIONS = pd.DataFrame(
    {
        "prompt_id": "p",
        "sample": [0, 1],
        "messages": [[{"role": "user", "content": "Say hi."}]] * 2,
        "requirements": "[]",
        "response": ["hi", "no"],
        "n_tokens": 2,
        "finish_reason": "stop",
    }
)


def scored(*rewards):
    failures = ["the judge gave no score" if math.isnan(reward) else "" for reward in rewards]
    row = {"prompt_id": "p", "logps": [-1.0, -2.0], "reference_logps": [-1.0, -1.0]}
    return join_scores(GENERATIONS, pd.DataFrame([row | {"rewards": list(rewards), "failures": failures}]))


def test_a_response_that_the_judge_gave_no_score_says_so():
    table = ScoredGenerationTable.validate(scored(1.5, math.nan))
    assert table["reward"].isna().tolist() == [False, True]
    assert table["reward_failure"].tolist() == ["", "the judge gave no score"]


def test_a_reward_that_scores_no_generated_response_ends_the_evaluation():
    with pytest.raises(DataError, match="none of 2 generated responses got a reward, for example: the judge gave no"):
        scored(math.nan, math.nan)
