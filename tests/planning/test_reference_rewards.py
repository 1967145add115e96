"""What is checked and counted of sampling the reference and scoring what it wrote."""

import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from plans import data_parameters, planned_step

from rao_kedro.config.alignment import ReferenceRewardParameters
from rao_kedro.config.data_engineering import ModelParameters
from rao_kedro.config.generation import GenerationParameters, SamplingParameters
from rao_kedro.config.planning import PlanningParameters
from rao_kedro.config.rewards import RewardParameters
from rao_kedro.datasets import PathDataset
from rao_kedro.planning import checks, size
from rao_kedro.planning.steps import Run

GROUPS = [("a", "train", 10), ("b", "validation", 12), ("c", "test", 30), ("d", "train", 4)]


def sampling(max_model_len=64, n=5, backend="transformers"):
    how = SamplingParameters(n=n, max_tokens=16)
    return GenerationParameters(backend=backend, max_model_len=max_model_len, sampling=how)


@pytest.fixture
def run(tmp_path):
    """A run whose groups are known, or not."""
    rows = [
        {
            "group_id": name,
            "split": split,
            "prompt_ids": [1] * n,
            "response_ids": [[1], [2]],
            "chosen": 0,
            "rejected": 1,
        }
        for name, split, n in GROUPS
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "groups.parquet")

    def planned(generation, known=True):
        data = data_parameters(prompt=40)
        parameters = {
            "reference_rewards": ReferenceRewardParameters(generation=generation),
            "data.max_prompt_tokens": data.max_prompt_tokens,
            "planning": PlanningParameters(),
            "data": data,
            "model": ModelParameters(source="tiny_random", name="tiny"),
        }
        datasets = {f"params:{name}": MemoryDataset(value, copy_mode="assign") for name, value in parameters.items()}
        place = tmp_path / ("groups.parquet" if known else "none.parquet")
        return Run((), DataCatalog({**datasets, "reward_annotated@path": PathDataset(filepath=str(place))}))

    return planned


def step_of(function, **given):
    return planned_step(function, datasets={"reward_annotated": "reward_annotated@path"}, **given)


def refused(run, step):
    return list(checks._of_step(run, step))


def test_prompts_of_training_and_their_responses_have_room(run):
    """The longest prompt that is sampled for has 12 tokens, and 16 are written; unknown prompts may have 40."""
    for length, known, expected in ((28, True, []), (27, True, ["a prompt has 12 tokens"]), (56, False, [])):
        step = step_of("sample_reference", generation=sampling(length))
        found = refused(run(sampling(length), known), step)
        assert [text in sentence for text, sentence in zip(expected, found, strict=True)] == [True] * len(expected)
    step = step_of("sample_reference", generation=sampling(55))
    (sentence,) = refused(run(sampling(55), known=False), step)
    assert "parameter generation.max_model_len (55) is too small" in sentence and "set it to 56 or more" in sentence


def test_a_backend_that_is_not_installed_is_named(run, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    how = sampling(backend="vllm")
    assert "vLLM is not installed" in refused(run(how), step_of("sample_reference", generation=how))[0]


@pytest.mark.parametrize(
    ("reward", "is_refused"),
    [
        ({"name": "rules"}, False),
        ({"name": "ratings"}, True),
        ({"name": "combined", "parameters": {"parts": [{"name": "rules"}, {"name": "ratings"}]}}, True),
    ],
)
def test_a_reward_must_score_new_responses(run, reward, is_refused):
    step = step_of("reward_reference", reward=RewardParameters(**reward), mixed_precision="no")
    said = [sentence for sentence in refused(run(sampling()), step) if "have no ratings" in sentence]
    assert len(said) == is_refused
    if is_refused:
        assert said[0].startswith("parameter reward: responses of the reference have no ratings")


def test_responses_are_counted_of_the_prompts_that_training_reads(run):
    how = sampling(n=5)
    drawn = size.size_of(run(how), step_of("sample_reference", generation=how), None)
    assert (drawn.rows, drawn.tokens) == (15, 15 * 16)
    reward = RewardParameters()
    scored = size.size_of(run(how), step_of("reward_reference", reward=reward, mixed_precision="no"), None)
    assert (scored.rows, scored.tokens) == (15, None)
    unknown = size.size_of(run(how, known=False), step_of("sample_reference", generation=how), None)
    assert unknown.rows is None and unknown.tokens is None
