"""Twenty optimizer steps of every kind of training on the tiny model give the losses that they gave when recorded.

Models are loaded in float64. In fp32 the same steps differ by 1e-5 between AVX2 and AVX-512; in float64 they agree to
the last digit. Record anew with `python tests/training/test_trajectories.py`, for a change that is meant to change
training and for no other.
"""

import json
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.specs import AlignmentSpec, PPOSpec, RewardTrainingSpec, ScoringSpec, TrainingSpec
from rao_kedro.config.training import KLParameters, RolloutParameters, TrainingParameters
from rao_kedro.data.arrow_schemas import REFERENCE_REWARDS
from rao_kedro.data.table_files import TableWriter
from rao_kedro.models import loading
from rao_kedro.models.tiny import build_tiny_checkpoint
from rao_kedro.objectives import objective_names
from rao_kedro.rewards.reference_rewards import prompt_digest, reference_rewards_key

RECORDED = Path(__file__).parents[1] / "assets/trajectories.json"

# Parameters that read as much of each objective as there is: schedules, weights, solved normalisers.
OBJECTIVES = {
    "rao": {"beta": 0.5, "log_z0": "auto", "margin": 0.5},
    "dpo": {"beta": 0.3, "label_smoothing": 0.1},
    "ipo": {"tau": 0.2},
    "simpo": {"beta": 2.0, "gamma": 0.5},
    "rpo_distill": {"beta": 0.5},
    "cal_dpo": {"beta": 0.5, "calibration_weight": 0.7},
    "dro": {"tau": 0.8},
    "slic_hf": {"delta": 1.0, "lambda": 0.2},
    "orpo": {"lambda": 0.3},
    "dpop": {"beta": 0.3, "lambda": 5.0},
    "dpo_shift": {"beta": 0.3, "f": 0.9, "f_end": 0.5},
    "kto": {"beta": 0.5, "desirable_weight": 1.2},
    "kimi_k15": {"tau": 0.5, "group_baseline": "log_mean_exp"},
    "rpo_partition": {"tau": 2.0},
    "dgro": {"policy_weight": 1.5, "regularization_weight": 0.4},
    "rloo": {"beta": 0.2, "clip_range": 5.0, "normalise_advantages": True},  # 20 passes clip all at 0.2
    "raft": {},
    "qrpo": {"beta": 0.5},
    "rebel": {"eta": 2.0},
    "ppo": {"beta": 0.05, "value_coefficient": 0.2},
}
VARIANTS = {
    "rao, attached and flat": {
        "objective": "rao",
        "objective_parameters": {"beta": 0.5, "log_z0": 2.0, "prompt_term": "attached", "reduction": "flat"},
    },
    "rao, two responses": {
        "objective": "rao",
        "objective_parameters": {"beta": 0.5, "log_z0": "auto", "gradient_scale": "inverse_beta"},
        "responses_per_prompt": 2,
    },
    "rao, log_z0 estimated": {
        "objective": "rao",
        "objective_parameters": {"beta": 0.5, "log_z0": "estimated", "loss": "huber", "huber_threshold": 2.0},
    },
    "qrpo, mean log-probs": {"objective": "qrpo", "objective_parameters": {"beta": 0.5, "logp_reduction": "mean"}},
    "dpo, all pairs": {"objective": "dpo", "objective_parameters": {"beta": 0.3}, "pairs": "all"},
    "kto, all pairs": {"objective": "kto", "objective_parameters": {"beta": 0.5}, "pairs": "all"},
}
RUNS = [*OBJECTIVES, *VARIANTS, "sft", "reward_model"]


def write_groups(path: Path) -> Path:
    """Twelve groups of two to five responses, whose ratings and rewards disagree; one response in six was cut."""
    rng, rows = random.Random(7), []
    for i in range(12):
        k = 2 + i % 4
        ended = [rng.random() > 1 / 6 for _ in range(k)]
        ids = [[*(rng.randrange(10, 250) for _ in range(rng.randrange(1, 6))), *([2] if end else [])] for end in ended]
        rows.append(
            {
                "group_id": f"g{i}",
                "split": "train" if i < 8 else "validation",
                "messages": [{"role": "user", "content": f"question {i}"}],
                "responses": [f"response {j}" for j in range(k)],
                "requirements": "[]",
                "prompt_ids": [1, *(rng.randrange(10, 250) for _ in range(rng.randrange(3, 7)))],
                "response_ids": ids,
                "ratings": [float(rating) for rating in rng.sample(range(1, 11), k)],
                "finished": ended,
                "rewards": [round(rng.gauss(0, 1), 3) for _ in range(k)],
                "reward_model": "gauss",
                "reward_transforms": "[]",
                "chosen": k - 1,
                "rejected": i % (k - 1),
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def training(**changes) -> TrainingParameters:
    """Two steps an epoch, ten epochs; a step is several packs."""
    defaults = {
        "epochs": 10,
        "learning_rate": 3e-4,
        "batch_size": 4,
        "mixed_precision": "no",
        "eval_every_epochs": 10,
        "keep": "last",
    }
    return TrainingParameters(**(defaults | changes))


def write_inputs(directory: Path) -> None:
    """Write what the runs share: the model, the groups and their reference log-probs."""
    model_dir, groups = build_tiny_checkpoint(directory / "model"), write_groups(directory / "groups.parquet")
    spec = ScoringSpec(
        workspace=directory / "scoring",
        model_dir=model_dir,
        groups_path=groups,
        output_path=directory / "reference.parquet",
        mixed_precision="no",
    )
    work("scoring.reference", spec)
    rng = random.Random(8)
    with TableWriter(directory / "reference_rewards.parquet", REFERENCE_REWARDS) as writer:
        for i, group in enumerate(pq.read_table(groups).to_pylist()):
            rewards = [round(rng.gauss(0, 1), 3) for _ in range(2 + i % 3)]
            row = {"group_id": group["group_id"], "prompt": prompt_digest(group["prompt_ids"])}
            row["key"] = reference_rewards_key(model_dir, group)
            writer.write(row | {"raw_rewards": rewards, "rewards": rewards})


def work(worker: str, spec: ScoringSpec | TrainingSpec) -> None:
    """Run a worker in this process."""
    spec.workspace.mkdir(exist_ok=True)
    path = spec.workspace / "spec.json"
    path.write_text(spec.model_dump_json())
    import_module(f"rao_kedro.{worker}").main(str(path))


def run(name: str, directory: Path, room: int = 60) -> list[dict[str, float]]:
    """Train in packs of at most `room` tokens, and return the rows of the log."""
    common = {
        "workspace": directory / f"{name} {room}",
        "model_dir": directory / "model",
        "groups_path": directory / "groups.parquet",
        "training": training(max_tokens_per_batch=room),
    }
    reference = {"reference_path": directory / "reference.parquet"}
    if name == "sft":
        work("training.tasks.sft", spec := TrainingSpec(**common))
    elif name == "reward_model":
        work("training.tasks.reward_model", spec := RewardTrainingSpec(**common, centering=0.05, margin=0.1))
    elif name == "ppo":
        # The reward model that the other run has trained is not asked: what scores is a rule, so the value network's
        # start is the only thing that PPO takes of it.
        reward = RewardParameters(name="rules", parameters={"function": "letters:share_of_letters"})
        if not (directory / "reward_model 60/model").exists():
            run("reward_model", directory)
        spec = PPOSpec(
            **common | reference | {"training": training(epochs=5, max_tokens_per_batch=room)},
            reward_model_dir=directory / "reward_model 60/model",
            objective_parameters=OBJECTIVES["ppo"],
            rollout=RolloutParameters(max_new_tokens=6, samples_per_prompt=3, ppo_epochs=2, reward=reward),
        )
        work("training.tasks.ppo", spec)
    else:
        variant = VARIANTS.get(name) or {"objective": name, "objective_parameters": OBJECTIVES[name]}
        reference["reference_rewards_path"] = directory / "reference_rewards.parquet"
        spec = AlignmentSpec(**common | reference | variant, kl=KLParameters(prompts=2, max_new_tokens=4))
        work("training.tasks.alignment", spec)
    return [json.loads(line) for line in (spec.workspace / "training_log.jsonl").read_text().splitlines()]


def trajectory(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    """Return what is recorded of a run: the loss and the gradient's norm of each step, the loss of each evaluation."""
    names = ("loss", "grad_norm", "eval_loss")
    return {name: [row[name] for row in rows if name in row] for name in names}


@contextmanager
def float64_models() -> Iterator[None]:
    """Load every model in float64."""
    open_model = loading.open_model
    loading.open_model = lambda *args, **kwargs: open_model(*args, **kwargs).double()
    try:
        yield
    finally:
        loading.open_model = open_model


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("trajectories")
    with float64_models():
        write_inputs(directory)
        yield directory


def test_every_objective_is_recorded():
    assert set(OBJECTIVES) == set(objective_names())
    assert set(json.loads(RECORDED.read_text())) == set(RUNS)


# In packs of 14 tokens, one more than the longest prompt and response have, every group of three or more is split.
@pytest.mark.parametrize("room", [60, 14])
@pytest.mark.parametrize("name", RUNS)
def test_training_takes_the_recorded_steps_in_long_packs_and_in_short_ones(name, room, inputs):
    recorded, found = json.loads(RECORDED.read_text())[name], trajectory(run(name, inputs, room))
    assert len(found["loss"]) == 20 and len(found["eval_loss"]) == 2
    tolerance = 1e-6 if room == 60 else 1e-4  # norms and rotary embeddings compute in fp32: the order of sums shows
    for metric, values in recorded.items():
        assert found[metric] == pytest.approx(values, rel=tolerance, abs=tolerance), metric


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    with float64_models(), tempfile.TemporaryDirectory() as directory:
        write_inputs(Path(directory))
        recorded = {name: trajectory(run(name, Path(directory))) for name in RUNS}
    RECORDED.write_text(json.dumps(recorded, indent=1) + "\n")
