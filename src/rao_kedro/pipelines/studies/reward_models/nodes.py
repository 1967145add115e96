"""Nodes of the reward model study."""

import shutil
from pathlib import Path

import pandas as pd

from rao_kedro.config.alignment import ReferenceParameters
from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.specs import AlignmentSpec, AnnotationSpec, RewardTrainingSpec
from rao_kedro.config.studies import RewardModelStudyParameters
from rao_kedro.config.training import KLParameters, TrainingParameters
from rao_kedro.config.workers import WorkerParameters
from rao_kedro.evals.reward_accuracy import LENGTH_ONLY, accuracy_table, group_outcomes, length_outcomes
from rao_kedro.files import write_parquet
from rao_kedro.identity import combined_hash, content_hash
from rao_kedro.scoring.reference_cache import cached_reference_logprobs
from rao_kedro.workers import launch


def measure_runs(
    base_model: Path,
    sft_model: Path,
    tokenized_groups: pd.DataFrame,
    study: RewardModelStudyParameters,
    t0_length: int,
    workers: WorkerParameters,
) -> pd.DataFrame:
    """Train every reward model of the study, and score the `test` groups with it; finished ones are kept.

    Training evaluates on, and may choose a checkpoint by, the `validation` groups.

    Returns:
        Loss and accuracy of each `test` group, with columns `form, size, train_groups, seed`.
    """
    trained_on, validation, reported = (
        tokenized_groups[tokenized_groups["split"] == part] for part in ("train", "validation", "test")
    )
    content = combined_hash(tokenized_groups.to_json(), *map(content_hash, (base_model, sft_model)))
    baseline = length_outcomes(reported).assign(form=LENGTH_ONLY, size="", train_groups=0, seed=0)
    outcomes = [baseline]
    with workers.reserve("reward_model_study") as workspace:
        for form, size, seed in study.runs().values():
            n = min(study.sizes[size] or len(trained_on), len(trained_on))
            settings = study.model_dump_json(include={"training", "centering", "dpo"})
            finished = workspace / f"{form}-{n}-{seed}-{combined_hash(content, settings, str(t0_length))}.parquet"
            if not finished.exists():
                run = workspace / f"{form}-{size}-{seed}"
                run.mkdir(parents=True, exist_ok=True)
                groups = pd.concat([trained_on.sample(n, random_state=seed), validation])
                write_parquet(run / "groups.parquet", groups.assign(rewards=groups["ratings"]))
                train = _train_implicit if form == "dpo_implicit" else _train_reward_model
                start = base_model if form == "base" else sft_model
                reward = train(start, run, study, seed, t0_length, workers)
                write_parquet(run / "test.parquet", reported)
                rewards = _scored(reward, run, workers)
                write_parquet(finished, group_outcomes(reported, rewards))
                shutil.rmtree(run)  # a study is about the accuracies; its models would fill the disk
            found = pd.read_parquet(finished)
            outcomes.append(found.assign(form=form, size=size, train_groups=n, seed=seed))
    return pd.concat(outcomes, ignore_index=True)


def _train_reward_model(
    start: Path, run: Path, study: RewardModelStudyParameters, seed: int, t0_length: int, workers: WorkerParameters
) -> RewardParameters:
    spec = RewardTrainingSpec(
        workspace=run / "training",
        model_dir=start,
        groups_path=run / "groups.parquet",
        t0_length=t0_length,
        training=_seeded(study.training, seed),
        centering=study.centering,
    )
    launch(spec, workers, metric_prefix=f"{run.name}.")
    parameters = {"model_dir": str(spec.trained_dir), "mixed_precision": study.training.mixed_precision}
    return RewardParameters(name="bradley_terry", parameters=parameters)


def _train_implicit(
    start: Path, run: Path, study: RewardModelStudyParameters, seed: int, t0_length: int, workers: WorkerParameters
) -> RewardParameters:
    training, groups = _seeded(study.dpo.training, seed), run / "groups.parquet"
    how = ReferenceParameters(
        mixed_precision=training.mixed_precision, max_tokens_per_batch=training.max_tokens_per_batch
    )
    reference = run / "reference.parquet"
    logprobs = cached_reference_logprobs(start, groups, how, t0_length, workers, run / "cache")
    write_parquet(reference, logprobs)
    spec = AlignmentSpec(
        workspace=run / "training",
        model_dir=start,
        groups_path=groups,
        t0_length=t0_length,
        training=training,
        reference_path=reference,
        objective=study.dpo.objective,
        objective_parameters=study.dpo.parameters,
        responses_per_prompt=study.dpo.responses_per_prompt,
        pairs=study.dpo.pairs,
        kl=KLParameters(prompts=0),
    )
    launch(spec, workers, metric_prefix=f"{run.name}.")
    parameters = {
        "policy_dir": str(spec.trained_dir),
        "reference_dir": str(start),
        "beta": study.dpo.parameters["beta"],
        "mixed_precision": training.mixed_precision,
    }
    return RewardParameters(name="implicit", parameters=parameters)


def _seeded(training: TrainingParameters, seed: int) -> TrainingParameters:
    return training.model_copy(update={"seed": seed})


def _scored(reward: RewardParameters, run: Path, workers: WorkerParameters) -> pd.DataFrame:
    output = run / "rewards.parquet"
    spec = AnnotationSpec(
        workspace=run / "scoring", groups_path=run / "test.parquet", reward=reward, output_path=output
    )
    launch(spec, workers)
    return pd.read_parquet(output)


def summarise(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Return the table: loss and held-out accuracy of each form and size, with intervals."""
    return accuracy_table(outcomes)
