"""Checks of lengths: packs and engines have room for prompts and responses, by their limits or as tokenised."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute as pc
import pyarrow.parquet as pq

from rao_kedro.config.alignment import MethodParameters
from rao_kedro.config.data_engineering import DataParameters
from rao_kedro.config.generation import GenerationParameters
from rao_kedro.evals.parameters import AnsweredBenchmarks
from rao_kedro.planning import models
from rao_kedro.planning.steps import Run, Step


class Group(NamedTuple):
    """Lengths of a tokenised group.

    Attributes:
        id: The group's id.
        split: Its split of the data.
        prompt: Tokens of the prompt.
        responses: Tokens of each response: of the chosen one, the rejected one and the others, in this order.
    """

    id: str
    split: str
    prompt: int
    responses: tuple[int, ...]

    def tokens(self, responses: int | None) -> int:
        """Return the tokens of the packed group with its first `responses` responses, or with all of them."""
        return self.prompt + sum(self.responses[:responses])

    def longest_row(self, responses: int | None) -> int:
        """Return the tokens of the prompt and the longest of its first `responses` responses, or of all of them."""
        return self.prompt + max(self.responses[:responses])


@dataclass(frozen=True)
class Pass:
    """Passes of a step over packed groups.

    Attributes:
        parameter: Dotted name of the step's `max_tokens_per_batch`.
        room: Its value, in tokens.
        responses: How many responses of a group are read, the chosen one first; None for all.
        splits: The splits of the data that are read.
        training: Whether the step trains on the split `train`.
    """

    parameter: str
    room: int
    responses: int | None
    splits: tuple[str, ...] = ("train", "validation")
    training: bool = True


def passes(step: Step) -> list[Pass]:
    """Return the passes of a step over groups; a step that packs no groups has none."""
    given, named = step.given, step.named
    match step.function:
        case "train_sft":
            return [_training(named["training"], given["training"], 1)]
        case "train_reward_model":
            return [_training(named["training"], given["training"], None)]
        case "score_reference":
            return [_scoring(named["parameters"], given["parameters"].max_tokens_per_batch, "train validation test")]
        case "align" | "align_with_ppo" | "train_run":
            return [_of_method(named["method"], given["method"])]
        case "measure_trained":
            return [_training(named["training"], given["training"], None)]
        case "measure_implicit":  # the reference reads all responses
            return [_training(f"{named['dpo']}.training", given["dpo"].training, None)]
        case "score_responses":
            return [_scoring(named["max_tokens_per_batch"].rpartition(".")[0], given["max_tokens_per_batch"], "test")]
    return []


def _training(name: str, training: Any, responses: int | None) -> Pass:
    return Pass(f"{name}.max_tokens_per_batch", training.max_tokens_per_batch, responses)


def _scoring(name: str, room: int, splits: str) -> Pass:
    return Pass(f"{name}.max_tokens_per_batch", room, None, tuple(splits.split()), training=False)


def _of_method(name: str, method: MethodParameters) -> Pass:
    return _training(f"{name}.training", method.training, responses_read(method))


def responses_read(method: MethodParameters) -> int | None:
    """Return how many responses of a group a method reads; None for all."""
    reads = method.requirements.reads
    if reads == "rollouts":  # rollouts have no responses yet; evaluations read all
        return None
    return 2 if reads == "pairs" and method.pairs == "one" else method.responses_per_prompt


CONVERSATIONS = "tokenized_conversations"


def learns_conversations(step: Step) -> bool:
    """Return whether a step reads conversations in place of groups."""
    return CONVERSATIONS in step.datasets.values()


def table_of(run: Run, step: Step) -> Path | None:
    """Return the table of tokenised groups or conversations that a step will read, if it exists already."""
    if learns_conversations(step):
        return run.path(CONVERSATIONS)
    if step.given.get("start", "sft_model") not in ("sft_model", "base_model"):
        return None  # another model has another tokenizer
    if step.groups_of_round is not None:
        return run.path(step.groups_of_round)
    names = ("reward_annotated@path", "tokenized_groups@path")
    drawn = step.datasets.get("training_groups")  # of the tokenised groups, by a study
    read = [drawn] if drawn else [name for name in names if name in step.datasets.values()]
    if not read:
        return None
    return run.path(read[0]) or run.path("tokenized_groups@path")


@cache
def _read_groups(path: Path, modified: int) -> list[Group]:
    from rao_kedro.data.tokenize import response_order

    file, found = pq.ParquetFile(path), list[Group]()
    if "conversation_id" in file.schema_arrow.names:
        columns = ["conversation_id", "split", "ids"]
        for batch in file.iter_batches(batch_size=1024, columns=columns):
            lengths_of = pc.list_value_length(batch["ids"]).to_pylist()
            columns_of = (batch["conversation_id"].to_pylist(), batch["split"].to_pylist(), lengths_of)
            found += [Group(name, split, 0, (n,)) for name, split, n in zip(*columns_of, strict=True)]
        return found
    columns = ["group_id", "split", "prompt_ids", "response_ids", "chosen", "rejected"]
    for batch in file.iter_batches(batch_size=1024, columns=columns):
        prompts = pc.list_value_length(batch["prompt_ids"]).to_pylist()
        responses = pc.list_value_length(batch["response_ids"]).to_pylist()
        lengths = iter(pc.list_value_length(pc.list_flatten(batch["response_ids"])).to_pylist())
        about = (batch[name].to_pylist() for name in ("group_id", "split", "chosen", "rejected"))
        for name, split, chosen, rejected, prompt, k in zip(*about, prompts, responses, strict=True):
            of_group = [next(lengths) for _ in range(k)]
            order = response_order(chosen, rejected, k)
            found.append(Group(name, split, prompt, tuple(of_group[i] for i in order)))
    return found


def read_groups(path: Path) -> list[Group]:
    """Return the lengths of a table's groups, or of its conversations, each as a single response."""
    return _read_groups(path, path.stat().st_mtime_ns)


def pack_problems(run: Run, step: Step) -> Iterator[str]:
    """Yield the passes of a step in which a group has no room; unknown groups are taken to be as long as allowed."""
    found = passes(step)
    path = table_of(run, step) if found else None
    for of_step in found:
        if path is not None:
            yield from _too_long(step, of_step, read_groups(path))
        elif learns_conversations(step):
            yield from _too_small_for_conversations(step, of_step, run.parameter("data").max_conversation_tokens)
        elif step.function != "score_responses":  # its groups are generated: their number of responses is a parameter
            yield from _too_small(step, of_step, run.parameter("data"))


def _too_long(step: Step, of_step: Pass, groups: Sequence[Group]) -> Iterator[str]:
    read = [group for group in groups if group.split in of_step.splits]
    longest = max(read, key=lambda group: group.longest_row(of_step.responses), default=None)
    if longest is not None and (tokens := longest.longest_row(of_step.responses)) > of_step.room:
        if learns_conversations(step):
            yield (
                f"{step.name}: conversation {longest.id} has {tokens} tokens, and {of_step.parameter} is "
                f"{of_step.room}: raise it to {tokens}, or lower data.max_conversation_tokens"
            )
            return
        yield (
            f"{step.name}: the prompt of group {longest.id} and one of its responses have {tokens} tokens, and "
            f"{of_step.parameter} is {of_step.room}: raise it to {tokens}, or lower data.max_prompt_tokens or "
            "data.max_response_tokens"
        )


def _too_small_for_conversations(step: Step, of_step: Pass, most: int) -> Iterator[str]:
    if most > of_step.room:
        yield (
            f"{step.name}: {of_step.parameter} is {of_step.room}, and a conversation may have "
            f"data.max_conversation_tokens ({most}): raise the one to {most}, or lower the other"
        )


def _too_small(step: Step, of_step: Pass, data: DataParameters) -> Iterator[str]:
    response, what = data.max_response_tokens, "data.max_response_tokens"
    if data.source == "sampled":
        assert data.sampled is not None
        sampling = data.sampled.generation.sampling
        if sampling.max_tokens < response:
            response, what = sampling.max_tokens, "data.sampled.generation.sampling.max_tokens"
    if (rounds := step.rounds) is not None and rounds.sampling.max_tokens > response:
        response, what = rounds.sampling.max_tokens, f"{step.named['method']}.rounds.sampling.max_tokens"
    tokens = data.max_prompt_tokens + response
    if tokens > of_step.room:
        yield (
            f"{step.name}: {of_step.parameter} is {of_step.room}, and a prompt of data.max_prompt_tokens "
            f"({data.max_prompt_tokens}) and a response of {what} ({response}) may have {tokens} tokens: raise it to "
            f"{tokens}, or lower the others"
        )


def split_remarks(run: Run, step: Step) -> Iterator[str]:
    """Yield how many training groups are longer than a pack: in training, such groups are computed twice."""
    found = [of_step for of_step in passes(step) if of_step.training]
    path = table_of(run, step) if found else None
    if path is None:
        return
    groups = [group for group in read_groups(path) if group.split == "train"]
    for of_step in found:
        tokens = [group.tokens(of_step.responses) for group in groups]
        if long := [n for n in tokens if n > of_step.room]:
            yield (
                f"{step.name}: {len(long)} of {len(tokens)} training groups are longer than a pack of {of_step.room} "
                f"tokens, so they are computed twice, in pieces; {of_step.parameter} = {max(long)} avoids that, for "
                "more memory"
            )


def t0_problems(max_prompt_tokens: int, t0_length: int) -> Iterator[str]:
    """Yield a problem where the common prefix t_0 leaves no room for a prompt."""
    if t0_length >= max_prompt_tokens:
        yield (
            f"parameter data.t0_length ({t0_length}) leaves nothing of a prompt of at most data.max_prompt_tokens "
            f"({max_prompt_tokens}): every prompt would be dropped"
        )


def generation_problems(run: Run, step: Step) -> Iterator[str]:
    """Yield why an engine has no room for the held-out prompts and their responses."""
    how: GenerationParameters = step.given["generation"]
    yield from room_problems(run, step.named["generation"], how, longest_prompt(run, how))
    benchmarks = AnsweredBenchmarks(
        **{name: step.given[name] for name in AnsweredBenchmarks.model_fields if name in step.given}
    )
    yield from benchmark_problems(benchmarks)
    longest = max(how.max_model_len, benchmarks.max_model_len if benchmarks.chosen else 0)
    parameter = "evaluation.benchmarks" if longest > how.max_model_len else step.named["generation"]
    yield from position_problems(run, f"{parameter}.max_model_len", longest, how.backend)


def training_generation_problems(run: Run, step: Step, argument: str) -> Iterator[str]:
    """Yield why an engine has no room for the prompts of the groups, as tokenised or as long as allowed."""
    parameter, how = step.named[argument], step.given[argument]
    path = table_of(run, step)
    longest = None if path is None else max(group.prompt for group in read_groups(path) if group.split != "test")
    yield from room_problems(run, parameter, how, longest)
    yield from position_problems(run, f"{parameter}.max_model_len", how.max_model_len, how.backend)


def room_problems(run: Run, parameter: str, how: GenerationParameters, prompt: int | None) -> Iterator[str]:
    """Yield a problem where `max_model_len` is too small for a prompt and its completion.

    Args:
        run: The run.
        parameter: Name of the generation's block.
        how: The block's values.
        prompt: Tokens of the longest prompt; None where they are unknown, so that the limit of prompts counts.
    """
    most = run.parameter("data.max_prompt_tokens")
    tokens = most if prompt is None else prompt
    wanted = tokens + how.sampling.max_tokens
    if wanted > how.max_model_len:
        longest = f"a prompt may have data.max_prompt_tokens ({most})" if prompt is None else f"a prompt has {prompt}"
        yield (
            f"parameter {parameter}.max_model_len ({how.max_model_len}) is too small: {longest} tokens, and "
            f"{parameter}.sampling.max_tokens ({how.sampling.max_tokens}) are written: set it to {wanted} or more"
        )


def longest_prompt(run: Run, how: GenerationParameters) -> int | None:
    """Return the tokens of the longest held-out prompt; None where it is unknown, or any prompt has room."""
    prompts, model = run.path("evaluation_prompts@path"), run.path("base_model")
    enough = how.max_model_len >= run.parameter("data.max_prompt_tokens") + how.sampling.max_tokens
    if enough or prompts is None or model is None:
        return None
    from rao_kedro.models.chat import prompt_token_ids
    from rao_kedro.models.chat_format import load_chat_format

    chat = load_chat_format(model, how.chat_template_kwargs)
    return max(len(prompt_token_ids(chat, of)) for of in pq.read_table(prompts)["messages"].to_pylist())


def benchmark_problems(benchmarks: AnsweredBenchmarks) -> Iterator[str]:
    """Yield the benchmarks that leave no room for a prompt."""
    for benchmark in benchmarks.judged:
        if (tokens := benchmark.parameters.max_tokens) >= benchmarks.max_model_len:
            yield (
                f"parameter evaluation.benchmarks.max_model_len ({benchmarks.max_model_len}) leaves no room for a "
                f"prompt beside evaluation.benchmarks.{benchmark.name}.max_tokens ({tokens}): raise it"
            )


def position_problems(run: Run, parameter: str, length: int, backend: str) -> Iterator[str]:
    """Yield a problem where vLLM would refuse a length, since the model has fewer positions."""
    from importlib.util import find_spec

    known = models.facts(run) if backend != "transformers" and find_spec("vllm") is not None else None
    positions = known.positions if known is not None and not models.long_rows_are_allowed() else None
    if positions is not None and length > positions:
        yield (
            f"parameter {parameter} ({length}) is more than the {positions} tokens that the model's positions allow, "
            "which vLLM refuses: lower it"
        )
