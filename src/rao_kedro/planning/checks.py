"""The checks of a run: each node of the run is checked for what it will need, and nothing else is."""

import logging
from collections.abc import Iterator
from typing import NamedTuple

from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from pydantic import BaseModel

from rao_kedro.config.alignment import MethodParameters
from rao_kedro.config.data_engineering import SampledResponses
from rao_kedro.config.generation import GenerationParameters
from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.run_names import method_of
from rao_kedro.config.training import TrainingParameters
from rao_kedro.errors import GenerationError, ParameterError
from rao_kedro.evals.leaderboard import BASE, BASELINE
from rao_kedro.evals.parameters import AnsweredBenchmarks
from rao_kedro.generation.engine_options import refuse_impossible
from rao_kedro.generation.generators import resolve_backend
from rao_kedro.pipelines.runs import METHODS
from rao_kedro.planning import files, judges, lengths, machine, models
from rao_kedro.planning.size import bytes_on_disk
from rao_kedro.planning.steps import Run, Step, steps_of

logger = logging.getLogger(__name__)

# Functions of nodes whose workers accelerate launches; other workers are single processes.
_LAUNCHED = (
    *(
        "train_sft",
        "train_reward_model",
        "annotate_responses",
        "score_reference",
        "align",
        "align_with_ppo",
        "score_responses",
    ),
    *("annotate_samples", "reward_reference", "train_run", "measure_trained", "measure_implicit", "measure_reward"),
)


def problems(pipeline: Pipeline, catalog: CatalogProtocol) -> list[str]:
    """Return a sentence for each reason why a run could not go as planned; what may go wrong is logged as a warning.

    Args:
        pipeline: The nodes that will run.
        catalog: Where their inputs and outputs are.
    """
    run = steps_of(pipeline, catalog)
    found = [problem for step in run.steps for problem in _of_step(run, step)]
    found += _of_launches(run)
    if (place := run.place("base_model")) is not None:
        found += machine.disk_problems(bytes_on_disk(run), place.parent)
    if not found:
        for remark in dict.fromkeys(remark for step in run.steps for remark in _remarks(run, step)):
            logger.warning("%s", remark)
    return list(dict.fromkeys(found))


def problems_of_made(pipeline: Pipeline, catalog: CatalogProtocol) -> list[str]:
    """Return what is wrong with the base model and the groups, once the run has made them.

    A step may have no room for the groups, and the chat template may not read a variable that is given.
    """
    run = steps_of(pipeline, catalog)
    found = [problem for step in run.steps for problem in lengths.pack_problems(run, step)]
    found += [problem for step in run.steps for problem in _template_problems(run, step)]
    return list(dict.fromkeys(found))


def _template_problems(run: Run, step: Step) -> Iterator[str]:
    if step.function in ("generate_responses", "generate_with_benchmarks"):
        kwargs = step.given["generation"].chat_template_kwargs
        yield from models.template_kwargs_problems(run, step.named["generation"], kwargs)


def _of_step(run: Run, step: Step) -> Iterator[str]:
    given, named = step.given, step.named
    match step.function:
        case "prepare_base_model":
            yield from models.import_problems(given["model"])
        case "collect_preferences":
            yield from _of_collection(run, step)
        case "collect_conversations":
            yield from files.conversation_problems(given["conversations"])
        case "tokenize":
            yield from lengths.t0_problems(given["max_prompt_tokens"], given["t0_length"])
        case "train_reward_model" if given["start"] not in ("sft_model", "base_model"):
            yield from models.checkpoint_problems(named["start"], given["start"])
        case "generate_responses" | "generate_with_benchmarks":
            yield from _engine_problems(named["generation"], given["generation"])
            yield from lengths.generation_problems(run, step)
            yield from files.benchmark_problems(_benchmarks(step))
        case "sample_responses":
            yield from _engine_problems(named["rounds"], given["rounds"])
            yield from lengths.training_generation_problems(run, step, "rounds")
            yield from _too_many_prompts(run, step)
        case "answer_with_served_models":
            yield from _of_served_models(step)
        case "judge_methods":
            yield from _of_judges(run, step)
        case "sample_reference":
            yield from _engine_problems(named["generation"], given["generation"])
            yield from lengths.training_generation_problems(run, step, "generation")
        case "reward_reference" | "annotate_samples":
            yield from judges.needed_ratings(named["reward"], given["reward"])
        case "measure_reward":
            for name, source in given["parameters"].sources.items():
                if source.path is not None:
                    parameter = f"{named['parameters']}.sources.{name}.path"
                    yield from files.file_problems(parameter, source.path, or_directory=True)
    yield from _template_problems(run, step)
    for parameter, reward in _rewards(step):
        yield from judges.reward_problems(parameter, reward)
    yield from lengths.pack_problems(run, step)


def _too_many_prompts(run: Run, step: Step) -> Iterator[str]:
    wanted, there = step.given["rounds"].prompts_per_round, None
    table, data = run.path("reward_annotated@path"), run.parameter("data")
    if table is not None:
        there = sum(group.split == "train" for group in lengths.read_groups(table))
    elif data.source == "sampled":
        there = data.sampled.train_prompts
    if wanted is not None and there is not None and wanted > there:
        yield (
            f"parameter {step.named['rounds']}.prompts_per_round is {wanted}, and there are {there} training prompts: "
            "lower it"
        )


def _of_collection(run: Run, step: Step) -> Iterator[str]:
    if step.given["source"] == "preferences":
        yield from files.preference_problems(step.given["preferences"])
        needed = sum(files.data_bytes(source) for _, source in step.given["preferences"] if source is not None)
        if (place := run.place("preference_groups")) is not None:
            yield from machine.table_problems(needed, place.parent)
        return
    sampled: SampledResponses = step.given["sampled"]
    yield from files.prompt_problems(run, sampled, step.given["n_evaluation_prompts"])
    if sampled.model is not None:
        yield from models.import_problems(sampled.model, f"{step.named['sampled']}.model")
    parameter, how = f"{step.named['sampled']}.generation", sampled.generation
    yield from _engine_problems(parameter, how)
    if how.sampling.n < 2:
        yield f"parameter {parameter}.sampling.n is {how.sampling.n}: a preference needs two responses at least"
    if how.sampling.max_tokens >= how.max_model_len:
        yield (
            f"parameter {parameter}.max_model_len ({how.max_model_len}) leaves no room for a prompt beside "
            f"{parameter}.sampling.max_tokens ({how.sampling.max_tokens}): raise it"
        )
    yield from lengths.position_problems(run, f"{parameter}.max_model_len", how.max_model_len, how.backend)


def _engine_problems(parameter: str, how: GenerationParameters) -> Iterator[str]:
    """Yield why a generation backend cannot be used: it is not installed, or lacks an option that is set."""
    if how.backend == "auto" and not how.engine.changed():
        return
    try:
        backend = resolve_backend(how.backend)
    except (GenerationError, ParameterError) as error:
        yield f"parameter {parameter}.backend: {error}"
        return
    try:
        refuse_impossible(how.engine, backend)
    except ParameterError as error:
        yield f"parameter {parameter}: {error}"


def _of_served_models(step: Step) -> Iterator[str]:
    served, benchmarks = step.given["served_models"], _benchmarks(step)
    for name in served:
        if method_of(name) in {BASELINE, BASE, *METHODS}:
            yield f"served_models: {name} is the name of a method; choose another one"
    if served and benchmarks.chosen:
        yield from files.benchmark_problems(benchmarks)
        for name, server in served.items():
            yield from judges.asked_problems(f"{step.named['served_models']}.{name}", server.model_dump())


def _of_judges(run: Run, step: Step) -> Iterator[str]:
    chosen = run.parameter("evaluation.benchmarks")
    if not chosen.judged:
        return
    yield from files.benchmark_problems(chosen)
    for parameter, judge in _asked(step):
        yield from judges.asked_problems(parameter, judge.model_dump())


def _benchmarks(step: Step) -> AnsweredBenchmarks:
    return AnsweredBenchmarks(**{k: v for k, v in step.given.items() if k in AnsweredBenchmarks.model_fields})


def _asked(step: Step) -> Iterator[tuple[str, BaseModel]]:
    for argument in ("judge", "second_judge"):
        if step.given.get(argument) is not None:
            yield step.named[argument], step.given[argument]


def _rewards(step: Step) -> Iterator[tuple[str, RewardParameters]]:
    """Yield the rewards that a step scores with, with the names of their parameters."""
    for argument, value in step.given.items():
        rollout = getattr(value, "rollout", None)
        places = {"": value, ".reward": getattr(value, "reward", None), ".rollout.reward": rollout and rollout.reward}
        for place, reward in places.items():
            if isinstance(reward, RewardParameters):
                yield f"{step.named[argument]}{place}", reward


def _of_launches(run: Run) -> Iterator[str]:
    """Yield what is wrong with the accelerate files, and with the trainings that they launch."""
    known = models.facts(run)
    for step in run.steps:
        workers = run.workers_of(step)
        launch = None if workers is None else machine.launch_of(workers)
        if isinstance(launch, str):
            yield launch
            continue
        if workers is not None and launch is not None and step.function in _LAUNCHED:
            yield from machine.launch_problems(workers.accelerate_config, launch)
        for trained in trainings(step):
            yield from machine.training_problems(
                trained.parameter, trained.training, launch, samples=step.samples_policy
            )
            if known is not None:
                needed = machine.state_bytes(trained.training, known.weights, launch, trained.models)
                yield from machine.memory_problems(step.name, needed, launch)


class Trained(NamedTuple):
    """One training of a step.

    Attributes:
        parameter: Name of its parameter block.
        training: The block.
        models: How many models it holds, a value network included.
    """

    parameter: str
    training: TrainingParameters
    models: machine.ModelsInMemory = machine.ONE_MODEL


def trainings(step: Step) -> Iterator[Trained]:
    """Yield the trainings of a step."""
    given, named = step.given, step.named
    match step.function:
        case "train_sft" | "train_reward_model" | "measure_trained":
            yield Trained(named["training"], given["training"])
        case "align" | "align_with_ppo" | "train_run":
            yield _method_training(f"{named['method']}.training", given["method"])
        case "measure_implicit":
            yield _method_training(f"{named['dpo']}.training", given["dpo"])


def _method_training(parameter: str, method: MethodParameters) -> Trained:
    return Trained(parameter, method.training, machine.models_in_memory(method))


def _remarks(run: Run, step: Step) -> Iterator[str]:
    """Yield what may go wrong later and cannot be known yet."""
    if step.function == "judge_methods" and run.parameter("evaluation.benchmarks").judged:
        for parameter, judge in _asked(step):
            if url := getattr(judge, "base_url", None):
                yield from judges.unreachable(parameter, url)
    for parameter, reward in _rewards(step):
        if reward.name == "generative" and (url := reward.parameters.get("base_url")):
            yield from judges.unreachable(f"{parameter}.parameters", url)
    if (
        step.function in ("align", "align_with_ppo", "train_run")
        and (rollout := step.given["method"].rollout) is not None
    ):
        room = step.given["method"].training.max_tokens_per_batch
        tokens = run.parameter("data.max_prompt_tokens") + rollout.max_new_tokens
        if tokens > room:
            yield (
                f"{step.name}: a prompt and its rollout may have {tokens} tokens, more than max_tokens_per_batch "
                f"({room}), at which training would stop"
            )
    if step.function == "score_responses":
        tokens = run.parameter("data.max_prompt_tokens") + run.parameter("evaluation.generation").sampling.max_tokens
        if tokens > (room := step.given["max_tokens_per_batch"]):
            yield (
                f"{step.name}: a prompt and a response may have {tokens} tokens, more than "
                f"evaluation.max_tokens_per_batch ({room}), at which scoring would stop"
            )
    yield from lengths.split_remarks(run, step)
