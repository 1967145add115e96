"""Nodes of on-policy rounds. The nodes that score the reference and train are those of `nodes`."""

from pathlib import Path

import pandas as pd

from rao_kedro.config.alignment import MethodParameters
from rao_kedro.config.generation import GenerationSpec
from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.rounds import RoundsParameters
from rao_kedro.config.specs import AnnotationSpec, PPORoundSpec
from rao_kedro.config.workers import WorkerParameters
from rao_kedro.data.narrow_tables import read_narrow
from rao_kedro.data.rounds import choose_prompts, write_prompts, write_sampled_groups
from rao_kedro.data.tokenize import Pairing
from rao_kedro.errors import ParameterError
from rao_kedro.files import link_or_copy
from rao_kedro.identity import combined_hash, content_hash, file_hash
from rao_kedro.models.chat_format import load_chat_format
from rao_kedro.objectives import make_objective
from rao_kedro.rewards.rounds import join_round
from rao_kedro.workers import launch


def sample_responses(
    policy: Path,
    reward_annotated: Path,
    rounds: RoundsParameters,
    training_seed: int,
    workers: WorkerParameters,
    *,
    run: str,
    round_: int,
) -> Path:
    """Sample responses from a policy for the prompts of a round.

    Runs that sample from the same policy with the same seed share the responses: their first rounds often do. The first
    one samples, and another that comes meanwhile waits for it.

    Args:
        policy: The checkpoint to sample from.
        reward_annotated: Parquet of `AnnotatedGroupTable`: the prompts are those of its training groups.
        rounds: How many prompts and samples, and how they are sampled.
        training_seed: The run's seed, which is part of the round's.
        workers: How the worker is started.
        run: Name of the round's workspace.
        round_: Number of the round, from 1 on.

    Returns:
        Path of a table of `GenerationTable`.
    """
    generation = rounds.generation(round_, training_seed)
    chosen = choose_prompts(reward_annotated, round_, rounds.prompts_per_round, rounds.offline_share, training_seed)
    key = combined_hash(
        content_hash(policy), generation.model_dump_json(), file_hash(reward_annotated), *sorted(chosen.sampled)
    )
    with workers.reserve(f"generations/{key}", wait=True) as shared:
        spec = GenerationSpec(
            model_dir=policy,
            prompts_path=shared / "prompts.parquet",
            output_path=shared / "generations.parquet",
            **generation.model_dump(),
        )
        write_prompts(reward_annotated, ("group_id", chosen.sampled), spec.prompts_path)
        launch(spec, workers)
        return link_or_copy(spec.output_path, workers.workspace(run) / "generations.parquet")  # saving moves it


def annotate_samples(
    generations: Path,
    policy: Path,
    sft_model: Path,
    reward_model: Path,
    reward_annotated: Path,
    rounds: RoundsParameters,
    training_seed: int,
    reward: RewardParameters,
    mixed_precision: str,
    pairing: Pairing,
    seed: int,
    workers: WorkerParameters,
    *,
    run: str,
    round_: int,
    pairs: bool,
) -> tuple[Path, Path]:
    """Score sampled responses, and join them with the groups of the data that the round takes.

    Args:
        generations: What `sample_responses` returned.
        policy: The checkpoint that was sampled from.
        sft_model: The SFT model, which an implicit reward compares with.
        reward_model: The reward model.
        reward_annotated: Parquet of `AnnotatedGroupTable`: the prompts, and the transforms of their rewards.
        rounds: How many prompts and samples.
        training_seed: The run's seed.
        reward: What scores.
        mixed_precision: Precision of a reward model's forward pass.
        pairing: How the rejected response is chosen.
        seed: Seed of the random pairing.
        workers: How the worker is started.
        run: Name of the round's workspace.
        round_: Number of the round, from 1 on.
        pairs: Whether the method reads pairs.

    Returns:
        Paths of tables of `SampledGroupTable` and `QuarantineTable`.
    """
    chosen = choose_prompts(reward_annotated, round_, rounds.prompts_per_round, rounds.offline_share, training_seed)
    with workers.reserve(run) as workspace:
        sampled = workspace / "sampled_groups.parquet"
        end_of_turn_ids = load_chat_format(policy).end_of_turn_ids
        write_sampled_groups(reward_annotated, chosen.sampled, generations, end_of_turn_ids, sampled)
        spec = AnnotationSpec(
            workspace=workspace / "annotation",
            groups_path=sampled,
            reward=reward.with_defaults(reward_model, sft_model, mixed_precision, workspace),
            output_path=workspace / "rewards.parquet",
        )
        launch(spec, workers)
        return join_round(sampled, spec.output_path, reward_annotated, chosen.offline, workspace, pairing, seed, pairs)


def align_with_ppo(
    policy: Path,
    value_network: Path,
    sft_model: Path,
    reward_annotated: Path,
    reference_logprobs: Path,
    method: MethodParameters,
    t0_length: int,
    workers: WorkerParameters,
    previous_log: pd.DataFrame | None = None,
    *,
    run: str,
) -> tuple[Path, pd.DataFrame, Path]:
    """Train a policy and a value network with PPO on what the policy has sampled.

    Args:
        policy: The checkpoint that sampled, from which training starts.
        value_network: The value network of the last round; in the first, the reward model.
        sft_model: The reference.
        reward_annotated: Parquet of `SampledGroupTable`.
        reference_logprobs: Parquet of `ReferenceLogProbTable`, with which those of single tokens are compared.
        method: The method.
        t0_length: Tokens of the prefix t_0.
        workers: How the worker is started.
        previous_log: The last round's log: with `kl_control: adaptive`, its KL divergence changes beta.
        run: Name of the round's workspace.

    Returns:
        The checkpoint, the training log, and the checkpoint of the value network.
    """
    workspace = workers.workspace(run)
    parameters = dict(method.parameters)
    if previous_log is not None:
        last = previous_log[previous_log["kl_to_reference"].notna()].iloc[-1]
        ppo = make_objective("ppo", **parameters | {"beta": float(last["beta"])})
        sampled = read_narrow(reward_annotated, ["split", "rewards"])
        n_responses = int(sampled[sampled["split"] == "train"]["rewards"].map(len).sum())
        try:
            parameters["beta"] = ppo.next_beta(float(last["kl_to_reference"]), n_responses)
        except ValueError as error:
            raise ParameterError(f"alignment.{method.objective}.parameters: {error}") from error
    assert method.rounds is not None  # the pipeline has this node for rounds alone
    spec = PPORoundSpec(
        workspace=workspace,
        model_dir=policy,
        groups_path=reward_annotated,
        reference_path=reference_logprobs,
        reference_dir=sft_model,
        value_dir=value_network,
        t0_length=t0_length,
        training=method.training,
        objective_parameters=parameters,
        temperature=method.rounds.sampling.temperature,
        value_learning_rate=method.value_network.learning_rate,
        value_max_grad_norm=method.value_network.max_grad_norm,
    )
    launch(spec, workers, metric_prefix=f"{workspace.name}.")
    return spec.trained_dir, pd.read_json(spec.log_path, lines=True), spec.value_network_dir


def collect_rounds(policy: Path, **logs: pd.DataFrame) -> tuple[Path, pd.DataFrame]:
    """Return the policy of the last round as that of the run, and the training logs of all rounds as one.

    Args:
        policy: The checkpoint of the last round.
        **logs: The log of each round, in their order.

    Returns:
        The checkpoint; and the log, whose column `round` counts from 1 on, and whose steps and epochs go on from round
        to round.
    """
    parts, steps, epochs = [], 0, 0.0
    for k, log in enumerate(logs.values(), 1):
        parts.append(log.assign(round=k, step=log["step"] + steps, epoch=log["epoch"] + epochs))
        steps, epochs = steps + int(log["step"].max()), epochs + float(log["epoch"].max())
    return policy, pd.concat(parts, ignore_index=True)
