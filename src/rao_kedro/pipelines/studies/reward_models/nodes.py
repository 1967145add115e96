"""Nodes of the reward model study."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from rao_kedro.config.alignment import MethodParameters, ReferenceParameters
from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.specs import AlignmentSpec, AnnotationSpec, RewardTrainingSpec
from rao_kedro.config.training import KLParameters, TrainingParameters
from rao_kedro.config.workers import WorkerParameters
from rao_kedro.data.arrow_schemas import TOKENIZED_GROUPS
from rao_kedro.data.mapped_tables import map_table
from rao_kedro.data.narrow_tables import read_narrow
from rao_kedro.data.table_files import BATCH, TableWriter, count_values, read_batches
from rao_kedro.evals.reward_accuracy import LENGTH_ONLY, accuracy_table, group_outcomes, length_outcomes
from rao_kedro.pipelines.runs import REWARD_MODEL_STUDY
from rao_kedro.scoring.reference_cache import cached_reference_logprobs
from rao_kedro.workers import launch


def select_training_groups(tokenized_groups: Path, size: int | None, workers: WorkerParameters, *, seed: int) -> Path:
    """Return the groups that runs of one size and seed train with: training groups, and all validation groups.

    Args:
        tokenized_groups: Table of `TokenizedGroupTable`.
        size: How many training groups are drawn; None takes all.
        workers: Where unfinished tables are written.
        seed: Of the drawing.

    Returns:
        Path of the table of the groups, with their ratings as `rewards`.
    """
    table = map_table(tokenized_groups)
    splits = pd.Series(table["split"].to_pylist())
    train, validation = (splits.index.to_series()[splits == part] for part in ("train", "validation"))
    drawn = train.sample(min(size or len(train), len(train)), random_state=seed)
    rows = [*drawn, *validation]
    path = workers.workspace(REWARD_MODEL_STUDY) / f"groups_{size}_{seed}.parquet"
    schema = TOKENIZED_GROUPS.append(TOKENIZED_GROUPS.field("ratings").with_name("rewards"))
    with TableWriter(path, schema) as writer:
        for start in range(0, len(rows), BATCH):
            groups = table.take(rows[start : start + BATCH])
            writer.write_batch(groups.append_column("rewards", groups["ratings"]))
    return path


def select_test_groups(tokenized_groups: Path, workers: WorkerParameters) -> Path:
    """Return the table of the groups on which all reward models are measured. Training never sees them."""
    path = workers.workspace(REWARD_MODEL_STUDY) / "test_groups.parquet"
    with TableWriter(path, TOKENIZED_GROUPS) as writer:
        for batch in read_batches(tokenized_groups, TOKENIZED_GROUPS.names, where=("split", ["test"])):
            writer.write_batch(batch)
    return path


def measure_trained(
    start: Path,
    training_groups: Path,
    test_groups: Path,
    training: TrainingParameters,
    centering: float,
    t0_length: int,
    workers: WorkerParameters,
    *,
    run: str,
    seed: int,
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Train a Bradley-Terry reward model, and yield its outcomes on the test groups and its training log.

    Once these are saved, the model is deleted: the models of a study would fill the disk.

    Args:
        start: The checkpoint that the reward model is trained from.
        training_groups: Parquet of the training and validation groups.
        test_groups: Parquet of the groups to score.
        training: Parameters of the loop.
        centering: Weight of the term that keeps the additive constant of the rewards near 0.
        t0_length: Tokens of the prefix t_0.
        workers: How the workers are started.
        run: Name of the run.
        seed: Of the new head and of the order of the data, in place of `training.seed`.
    """
    with workers.reserve(f"{REWARD_MODEL_STUDY}/{run}") as workspace:
        spec = RewardTrainingSpec(
            workspace=workspace / "training",
            model_dir=start,
            groups_path=training_groups,
            t0_length=t0_length,
            training=training.model_copy(update={"seed": seed}),
            centering=centering,
        )
        launch(spec, workers, metric_prefix=f"{run}.")
        parameters = {"model_dir": str(spec.trained_dir), "mixed_precision": training.mixed_precision}
        reward = RewardParameters(name="bradley_terry", parameters=parameters)
        outcomes = _measure(reward, training_groups, test_groups, workspace, workers)
        yield outcomes, pd.read_json(spec.log_path, lines=True)
        shutil.rmtree(workspace)


def measure_implicit(
    start: Path,
    training_groups: Path,
    test_groups: Path,
    dpo: MethodParameters,
    t0_length: int,
    workers: WorkerParameters,
    *,
    run: str,
    seed: int,
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Train a DPO policy, and yield the outcomes of its implicit reward on the test groups and its training log.

    Once these are saved, the policy is deleted, as in `measure_trained`, which has the arguments.

    Args:
        start: The reference, from which the policy is trained.
        training_groups: See there.
        test_groups: See there.
        dpo: The method.
        t0_length: See there.
        workers: See there.
        run: See there.
        seed: Of the order of the data, in place of `dpo.training.seed`.
    """
    training = dpo.training.model_copy(update={"seed": seed})
    forward = {name: getattr(training, name) for name in ("mixed_precision", "max_tokens_per_batch")}
    with workers.reserve(f"{REWARD_MODEL_STUDY}/{run}") as workspace:
        scored = start, training_groups, ReferenceParameters(**forward), t0_length, workers
        reference = cached_reference_logprobs(*scored, workspace / "cache")
        spec = AlignmentSpec(
            workspace=workspace / "training",
            model_dir=start,
            groups_path=training_groups,
            t0_length=t0_length,
            training=training,
            reference_path=reference,
            objective=dpo.objective,
            objective_parameters=dpo.parameters,
            responses_per_prompt=dpo.responses_per_prompt,
            pairs=dpo.pairs,
            kl=KLParameters(prompts=0),
        )
        launch(spec, workers, metric_prefix=f"{run}.")
        parameters = {
            "policy_dir": str(spec.trained_dir),
            "reference_dir": str(start),
            "beta": dpo.parameters["beta"],
            "mixed_precision": training.mixed_precision,
        }
        reward = RewardParameters(name="implicit", parameters=parameters)
        outcomes = _measure(reward, training_groups, test_groups, workspace, workers)
        yield outcomes, pd.read_json(spec.log_path, lines=True)
        shutil.rmtree(workspace)


def _measure(
    reward: RewardParameters, training_groups: Path, test_groups: Path, workspace: Path, workers: WorkerParameters
) -> pd.DataFrame:
    """Return the loss and accuracy of a reward on each test group, and how many groups it was trained with."""
    output = workspace / "rewards.parquet"
    spec = AnnotationSpec(workspace=workspace / "scoring", groups_path=test_groups, reward=reward, output_path=output)
    launch(spec, workers)
    train_groups = count_values(training_groups, ["split"])[("train",)]
    measured = read_narrow(test_groups, ["group_id", "ratings"])
    return group_outcomes(measured, read_narrow(output, ["group_id", "rewards"])).assign(train_groups=train_groups)


def collect_outcomes(
    runs: Mapping[str, tuple[str, str, int]], test_groups: Path, **outcomes: pd.DataFrame
) -> pd.DataFrame:
    """Return the outcomes of all runs one below the other, after those of preferring the longer response.

    Args:
        runs: Form, size and seed of each run.
        test_groups: The groups on which the runs are measured.
        **outcomes: The outcomes of each run.

    Returns:
        Loss and accuracy of each test group, with columns `form, size, train_groups, seed`.
    """
    measured = read_narrow(test_groups, ["group_id", "ratings", "response_lengths"])
    tables = [length_outcomes(measured).assign(form=LENGTH_ONLY, size="", train_groups=0, seed=0)]
    for run, table in outcomes.items():
        form, size, seed = runs[run]
        tables.append(table.assign(form=form, size=size, seed=seed)[tables[0].columns])
    return pd.concat(tables, ignore_index=True)


def summarise_runs(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Return the table: loss and held-out accuracy of each form and size, with intervals."""
    return accuracy_table(outcomes)
