"""Two processes on a CPU (gloo) give what one gives: every task, with the shipped accelerate files.

All tasks run in one launch per engine. DeepSpeed is tested where it is installed (`pip install deepspeed`).
"""

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from conversation_rows import write_conversations
from groups import alignment_spec, log_of, parameters, reference_rewards, write_groups
from launching import IN_PROCESS
from two_processes import (
    EACH_ENGINE,
    ENGINES,
    PROJECT,
    assert_resumed_after_step_1,
    assert_same_training,
    each_alone,
    free_port,
    launched,
    refusal,
    run_alone,
    stop_alone,
)

from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.specs import (
    AnnotationSpec,
    PolicyScoringSpec,
    PPOSpec,
    RewardTrainingSpec,
    ScoringSpec,
    TrainingSpec,
)
from rao_kedro.config.training import LoRAParameters, RolloutParameters
from rao_kedro.config.workers import WorkerParameters
from rao_kedro.models.chat_format import load_tokenizer
from rao_kedro.models.loading import load_causal_lm, save_checkpoint
from rao_kedro.workers import launch

TRAINING = parameters(epochs=2, max_tokens_per_batch=30, batch_size=3, learning_rate=1e-3, keep="last")
LORA = {"lora": LoRAParameters(rank=4, alpha=8), "learning_rate": 1e-2}
OPTIONS = {
    "bf16": {"mixed_precision": "bf16"},
    "bf16_weights": {"mixed_precision": "bf16_weights", "published_dtype": "fp32"},
    "lora": LORA,
    "lora_compiled": LORA | {"compile": True},
    "early_stop": {"learning_rate": 0.1, "eval_every_steps": 1, "early_stopping_patience": 1, "keep": "best"},
    "pieces": {"max_tokens_per_batch": 12},  # a group has 20
    "start": {},  # of a later round: another model than the reference
}
OBJECTIVES = {
    "rao": {"beta": 1.0, "log_z0": 0.0},  # point-wise
    "dpo": {"beta": 0.5},  # pairwise
    "simpo": {"beta": 2.0, "gamma": 1.0},  # without a reference
    "dro": {"tau": 1.0},
    "kto": {"beta": 0.5},
    "qrpo": {"beta": 1.0},  # with rewards of the reference's responses, of which two prompts have none
}
SCORERS = ["reference", "annotate", "annotate_implicit", "score_policy"]
TRAINERS = ["sft", "sft_of_conversations", "reward", *OBJECTIVES, "ppo"]
WITH_BF16_WEIGHTS = ["sft", "reward"]
WITH_LORA = ["sft", "reward", "rao", "dro", "kto", "ppo"]
VARIANTS = [*(f"{name}_with_lora" for name in WITH_LORA), "sft_with_early_stop"]
VARIANTS += ["rao_with_start", "simpo_with_start", "rao_with_pieces", "reward_with_pieces", "dro_with_pieces"]

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Inputs:
    """What all tasks read, and what one process makes of it."""

    directory: Path
    model: Path
    other_model: Path
    reward_model: Path
    groups: Path
    generations: Path

    @property
    def reward(self):
        parameters = {"model_dir": str(self.reward_model), "mixed_precision": "no", "max_tokens_per_batch": 60}
        return RewardParameters(parameters=parameters)

    def task(self, name, directory):
        """Return the spec of a task, whose workspace is in `directory`."""
        workspace = directory / name
        common = {"workspace": workspace, "groups_path": self.groups}
        scoring = {"model_dir": self.model, "max_tokens_per_batch": 40, "mixed_precision": "no"}
        match name:
            case "reference":
                return ScoringSpec(**common, **scoring, output_path=workspace / "scores.parquet", groups_per_shard=5)
            case "annotate":
                output = workspace / "scores.parquet"
                return AnnotationSpec(**common, reward=self.reward, output_path=output, groups_per_shard=5)
            case "annotate_implicit":
                models = {"policy_dir": str(self.other_model), "reference_dir": str(self.model)}
                how = {"mixed_precision": "no", "max_tokens_per_batch": 60}
                reward = RewardParameters(name="implicit", parameters=models | how)
                output = workspace / "scores.parquet"
                return AnnotationSpec(**common, reward=reward, output_path=output, groups_per_shard=5)
            case "score_policy":
                return PolicyScoringSpec(
                    **common,
                    **scoring | {"model_dir": self.other_model},
                    output_path=workspace / "scores.parquet",
                    generations_path=self.generations,
                    reference_dir=self.model,
                    reference_path=self.directory / "reference.parquet",
                    reward=self.reward,
                    held_out_path=workspace / "held_out.parquet",
                )
        method, *options = name.split("_with_")
        training = TRAINING.model_copy(update=OPTIONS[options[0]] if options else {})
        common |= {"model_dir": self.model, "training": training}
        if method == "sft":
            return TrainingSpec(**common | {"groups_path": self.directory / "groups_of_one_turn.parquet"})
        if method == "sft_of_conversations":
            return TrainingSpec(**common | {"groups_path": self.directory / "conversations.parquet"})
        if method == "reward":
            return RewardTrainingSpec(**common)
        if method == "ppo":
            rollout = RolloutParameters(max_new_tokens=6, samples_per_prompt=2, ppo_epochs=2, reward=self.reward)
            return PPOSpec(
                **common | {"training": training.model_copy(update={"max_tokens_per_batch": 40})},
                reference_path=self.directory / "reference.parquet",
                reward_model_dir=self.reward_model,
                objective_parameters={"beta": 0.01},
                rollout=rollout,
            )
        spec = alignment_spec(self.directory, self.model, self.groups, method, training=training, **OBJECTIVES[method])
        changes = {"workspace": workspace}
        changes |= {"reference_path": None} if method == "simpo" else {}
        changes |= {"model_dir": self.other_model, "reference_dir": self.model} if options == ["start"] else {}
        return spec.model_copy(update=changes)


def with_several_turns(groups, path):
    """In every third group, the second token of a response is the user's: it is read, and not learned."""
    table = pq.read_table(groups)
    learned = [
        [[place != 1 for place in range(len(ids))] for ids in of_group] if row % 3 == 0 else None
        for row, of_group in enumerate(table["response_ids"].to_pylist())
    ]
    pq.write_table(table.append_column("learned", pa.array(learned, pa.list_(pa.list_(pa.bool_())))), path)
    return path


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, tiny_checkpoint, tiny_reward_model):
    directory = tmp_path_factory.mktemp("inputs")
    tokenizer, model = load_tokenizer(tiny_checkpoint), load_causal_lm(tiny_checkpoint)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    save_checkpoint(model, tokenizer, directory / "other")
    rows = [
        {
            "prompt_id": f"p{i}",
            "sample": sample,
            "messages": [{"role": "user", "content": f"question {i}"}],
            "requirements": "[]",
            "response": f"answer {i} {sample}",
            "finish_reason": "length" if sample else "stop",
            "prompt_ids": [1, 20 + i, 30 + i],
            "response_ids": [40 + i, 60 + sample, *([] if sample else [2])],
        }
        for i in range(7)
        for sample in range(2)
    ]
    pd.DataFrame(rows).to_parquet(directory / "generations.parquet")
    made = Inputs(
        directory,
        tiny_checkpoint,
        directory / "other",
        tiny_reward_model,
        with_several_turns(write_groups(directory / "groups_of_one_turn.parquet", 12), directory / "groups.parquet"),
        directory / "generations.parquet",
    )
    write_conversations(directory / "conversations.parquet", 12)
    spec = made.task("reference", directory)
    launch(spec.model_copy(update={"output_path": directory / "reference.parquet"}), IN_PROCESS)
    sampled = [[], [0.5], [-0.5, 0.0, 2.0]]
    reference_rewards(
        directory / "reference_rewards.parquet", tiny_checkpoint, made.groups, lambda i: sampled[i % 7 % 3]
    )
    return made


@pytest.fixture(scope="module")
def alone(inputs):
    yield from each_alone(inputs)


@pytest.fixture(scope="module")
def together(inputs):
    """Return the workspaces' directory of an engine after two processes have done everything, and what they said."""
    done = {}

    def run(engine):
        if engine not in done:
            (directory := inputs.directory / engine).mkdir()
            names = [*SCORERS, *TRAINERS, *VARIANTS]
            if engine == "fsdp2":
                names += ["sft_with_bf16", "sft_with_bf16_weights"] + ["rao_with_lora_compiled"] * COMPILES
            if engine == "ddp":
                names += [f"{name}_with_bf16_weights" for name in WITH_BF16_WEIGHTS]
            tasks = [(inputs.task(name, directory), False) for name in names]
            if engine == "fsdp2":
                tasks += [(inputs.task(name, directory / "sharded"), False) for name in SCORERS]
            tasks += [(inputs.task("rao", directory / "stopped"), stops) for stops in (True, False)]
            if engine != "zero3":
                stop_alone(inputs.task("rao", directory / "from_one"))
                tasks.append((inputs.task("rao", directory / "from_one"), False))
                tasks += [(inputs.task(name, directory / "to_one"), True) for name in ("rao", "rao_with_lora")]
            done[engine] = directory, launched(engine, tasks, directory)
        directory, ended = done[engine]
        assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-8000:]
        return directory, ended.stdout

    return run


COMPILES = shutil.which("g++") is not None


@pytest.mark.parametrize("engine", EACH_ENGINE)
@pytest.mark.parametrize("name", SCORERS)
def test_two_processes_score_as_one(together, alone, engine, name):
    directory, _ = together(engine)
    assert_same_scores(directory / name, alone(name))
    assert not [*(directory / name).glob("held-*.json")]  # the model fits: nothing is sharded


@pytest.mark.parametrize("name", SCORERS)
def test_a_model_that_does_not_fit_is_sharded_and_scores_the_same(together, alone, name):
    directory = together("fsdp2")[0] / "sharded" / name
    assert_same_scores(directory, alone(name))
    for process in range(2):
        models = json.loads((directory / f"held-{process}.json").read_text())
        assert models and all(0.5 <= after / before < 0.51 for before, after in models)


def assert_same_scores(found, expected):
    tables = sorted(path.name for path in expected.glob("*.parquet"))
    assert tables
    for table in tables:
        one, two = (pd.read_parquet(path / table) for path in (expected, found))
        pd.testing.assert_frame_equal(two, one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", EACH_ENGINE)
@pytest.mark.parametrize("name", [*TRAINERS, *VARIANTS])
def test_two_processes_train_the_same_weights_as_one(together, alone, engine, name):
    directory, said = together(engine)
    assert re.search(rf"of each of 2 processes{ENGINES[engine][2]}[;\n]", said)
    if name.startswith("ppo") and engine != "ddp":
        kind = {"fsdp2": "FSDP", "zero3": "DEEPSPEED"}[engine]
        assert f"ppo samples from the policy, which {kind} would shard" in refusal(directory / name)
        return
    assert not (directory / name / "refused.txt").exists(), refusal(directory / name)
    assert_same_training(directory / name, alone(name))
    if name.endswith("early_stop"):
        assert len(log_of(alone(name))[0]) < TRAINING.epochs * 3  # it did stop


def test_fsdp2_leaves_no_unsharded_gradient_after_any_pack(together):
    """8 groups of 20 tokens in packs of 30, 3 a step: most steps have more packs than processes."""
    for name in ("sft", "rao", "rao_with_lora"):
        found = json.loads((together("fsdp2")[0] / name / "gradients.json").read_text())
        assert found["unsharded"] == 0 and found["sharded"] > 0


@pytest.mark.parametrize("engine", EACH_ENGINE)
def test_two_processes_that_were_stopped_go_on_to_the_same_weights(together, alone, engine):
    directory, said = together(engine)
    workspace = directory / "stopped" / "rao"
    assert "stopped by SIGTERM after step 1" in refusal(workspace)
    assert_resumed_after_step_1(said, workspace)
    assert_same_training(workspace, alone("rao"))


@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_a_run_that_one_process_began_goes_on_with_two(together, alone, engine):
    directory, said = together(engine)
    workspace = directory / "from_one" / "rao"
    assert_resumed_after_step_1(said, workspace)
    assert_same_training(workspace, alone("rao"))


@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
@pytest.mark.parametrize("name", ["rao", "rao_with_lora"])
def test_a_run_that_two_processes_began_goes_on_with_one(together, alone, inputs, engine, name):
    workspace = together(engine)[0] / "to_one" / name
    checkpoint = workspace / "checkpoints/step-000000001"
    assert len([*checkpoint.glob("__*.distcp")]) == 2  # each process wrote its share
    sizes = [path.stat().st_size for path in checkpoint.glob("__*.distcp")]
    assert max(sizes) < 1.5 * min(sizes)
    run_alone(inputs.task(name, together(engine)[0] / "to_one"))
    assert_same_training(workspace, alone(name))


@pytest.mark.skipif(not COMPILES, reason="compiling for a CPU needs a C++ compiler")
def test_options_go_together_with_sharding(together, alone):
    """Adapters and compiled layers, with the activation checkpointing of the shipped file."""
    assert_same_training(together("fsdp2")[0] / "rao_with_lora_compiled", alone("rao_with_lora"))


@pytest.mark.parametrize("name", WITH_BF16_WEIGHTS)
def test_two_processes_sum_the_gradients_of_bf16_copies_as_one_does(together, alone, name):
    name = f"{name}_with_bf16_weights"
    assert_same_training(together("ddp")[0] / name, alone(name))


@pytest.mark.parametrize("name", ["sft_with_bf16", "sft_with_bf16_weights"])
def test_shards_in_bf16_return_losses_in_fp32(together, alone, name):
    losses, expected = (
        [step["loss"] for step in log_of(workspace)[0]] for workspace in (together("fsdp2")[0] / name, alone(name))
    )
    assert losses == pytest.approx(expected, rel=2e-2)  # rounding, which training carries on
    assert losses != torch.tensor(losses).bfloat16().tolist()


STAND_INS = {
    "scontrol": "echo 127.0.0.1",
    "srun": 'shift; for n in 0 1; do SLURM_NODEID=$n "$@" & done; wait -n && wait -n',
}


def test_a_slurm_job_of_two_nodes_trains_the_same_weights_as_one_process(inputs, alone, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    (programs := tmp_path / "bin").mkdir()
    for name, script in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/bash\n{script}\n")
        (programs / name).chmod(0o755)
    accelerate_config = yaml.safe_load((PROJECT / "conf/accelerate/fsdp2_two_machines.yaml").read_text())
    accelerate_config |= {"distributed_type": "MULTI_GPU", "num_processes": 2, "main_process_port": free_port()}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(accelerate_config))

    expected = alone("sft")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node[1-2]")
    monkeypatch.setenv("RAO_KEDRO_LAUNCHER", str(PROJECT / "conf/accelerate/slurm_launcher.sh"))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    spec = inputs.task("sft", tmp_path)
    workers = WorkerParameters(accelerate_config=tmp_path / "two.yaml", workspaces=tmp_path)
    launch(spec, workers)
    assert "of each of 2 processes" in caplog.text
    assert_same_training(spec.workspace, expected)
