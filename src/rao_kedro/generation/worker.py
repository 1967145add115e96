"""Generates a table of responses shard by shard: `python -m rao_kedro.generation.worker spec.json`.

Knows files, shards and chat templates. Backends generate the text.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from rao_kedro.config.generation import GenerationSpec
from rao_kedro.errors import DataError, GenerationError, ModelError
from rao_kedro.files import write_parquet
from rao_kedro.generation.base import Call, Completion, Generator, stream_shards
from rao_kedro.generation.engine_options import engine_identity
from rao_kedro.generation.generators import make_generator, resolve_backend
from rao_kedro.identity import combined_hash, content_hash
from rao_kedro.models.thinking import add_opening_tag
from rao_kedro.progress import KEPT, report_progress
from rao_kedro.shards import TABLE, Shards, is_finished, mark_finished
from rao_kedro.workers import worker_main

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("sample", pa.int64()),
        ("messages", MESSAGES),
        ("requirements", pa.string()),
        ("response", pa.string()),
        ("n_tokens", pa.int64()),
        ("finish_reason", pa.string()),
        ("response_ids", pa.list_(pa.int64())),
        ("prompt_ids", pa.list_(pa.int64())),
    ]
)
PROMPT_COLUMNS = ["prompt_id", "messages", "requirements"]


def main(spec_path: str, make: Callable[..., Generator] = make_generator) -> None:
    """Generate the table that a spec file describes.

    Args:
        spec_path: JSON of a `GenerationSpec`.
        make: Makes the generator; called only if a shard is missing.

    Raises:
        DataError: The table of prompts cannot be used.
        GenerationError: A prompt is too long, or the backend failed.
    """
    generate_table(GenerationSpec.model_validate_json(Path(spec_path).read_text()), make)


def generate_table(spec: GenerationSpec, make: Callable[..., Generator]) -> None:
    """Write the table of a spec. A killed run goes on after its finished shards; a finished table is kept.

    Args:
        spec: The model, the prompts, the sampling and the output.
        make: Makes the generator; called only if a shard is missing.

    Raises:
        DataError: The table of prompts cannot be used.
        GenerationError: A prompt is too long, or the backend failed.
    """
    prompts = read_prompts(spec.prompts_path)
    key, marker = generation_key(spec, prompts), spec.output_path.with_suffix(".finished.json")
    shards = Shards(spec.shards_dir, TABLE)
    if is_finished(marker, key, [spec.output_path]):
        same = "from the same model, prompts and sampling"
        logger.info("%s exists already, %s", spec.output_path, same, extra=KEPT)
    else:
        parts = [prompts[i : i + spec.shard_size] for i in range(0, len(prompts), spec.shard_size)]
        keys = [combined_hash(key, str(i)) for i in range(len(parts))]
        shards.discard_others(keys)
        tables = dict(shards.read_or_make(keys, lambda missing: _generate_shards(spec, parts, missing, make)))
        write_parquet(spec.output_path, pa.concat_tables(tables[i] for i in range(len(parts))))
        mark_finished(marker, key, [spec.output_path])
    shards.remove()


def read_prompts(path: Path) -> list[dict]:
    """Read the table of prompts: `prompt_id, messages, requirements` of each row.

    Raises:
        DataError: The table is missing, lacks a column, is empty or names a prompt twice.
    """
    if not path.is_file():
        raise DataError(f"{path}: this table of prompts does not exist; run the pipeline that writes it")
    absent = sorted(set(PROMPT_COLUMNS) - set(pq.read_schema(path).names))
    if absent:
        raise DataError(
            f"{path}: columns {', '.join(absent)} are missing; a table of prompts has {', '.join(PROMPT_COLUMNS)}"
        )
    prompts = pq.read_table(path, columns=PROMPT_COLUMNS).to_pylist()
    if not prompts:
        raise DataError(f"{path} contains no prompts; check the split and the limit on prompts")
    seen: set[str] = set()
    for row, prompt in enumerate(prompts):
        if prompt["prompt_id"] in seen:
            raise DataError(f"{path} row {row}: prompt_id {prompt['prompt_id']!r} occurs twice; ids must be unique")
        seen.add(prompt["prompt_id"])
    return prompts


def generation_key(spec: GenerationSpec, prompts: list[dict]) -> str:
    """Return a hash of everything that determines the responses: the model's content, the prompts, the sampling."""
    parts = {
        "model": content_hash(spec.model_dir),
        "prompts": prompts,
        "backend": resolve_backend(spec.backend),
        "version": version("rao_kedro"),
        "engine": engine_identity(spec.engine),
        **spec.model_dump(include={"sampling", "dtype", "max_model_len", "shard_size", "chat_template_kwargs"}),
    }
    return combined_hash(json.dumps(parts, sort_keys=True))


def _generate_shards(
    spec: GenerationSpec, shards: list[list[dict]], missing: list[int], make: Callable[..., Generator]
) -> Iterator[tuple[int, pa.Table]]:
    """Yield the table of each missing shard with its number, as soon as all its prompts have responses."""
    from rao_kedro.models.chat_format import load_tokenizer

    prompt_ids = dict(zip(missing, _tokenize(spec, [shards[i] for i in missing]), strict=True))
    started = time.monotonic()
    tokenizer = load_tokenizer(spec.model_dir)
    generator = make(
        spec.backend, spec.model_dir, dtype=spec.dtype, max_model_len=spec.max_model_len, engine=spec.engine
    )
    logger.info("model loaded in %.0f s", time.monotonic() - started)
    # Greedy responses do not depend on the other prompts of a call, and one call keeps the engine busiest. Sampled
    # responses do, so each shard is a call with its own seed: a resumed run samples what an uninterrupted one would.
    calls = [
        Call(
            {i: prompt_ids[i] for i in together},
            spec.sampling.model_copy(update={"seed": _shard_seed(spec.sampling.seed, together[0])}),
        )
        for together in ([missing] if spec.sampling.greedy else [[i] for i in missing])
    ]
    engines = spec.engine.data_parallel_size
    if len(missing) < engines:
        logger.warning(
            "%d shards are left for %d engines, so some engines have no work: lower shard_size", len(missing), engines
        )
    started, tokens, rows = time.monotonic(), 0, 0
    rows_to_do = spec.sampling.n * sum(map(len, prompt_ids.values()))
    what = "generating responses"
    report_progress(what, 0, rows_to_do, "responses")
    for i, completions in stream_shards(generator, calls):
        table = _shard_table(tokenizer, shards[i], prompt_ids[i], completions)
        yield i, table
        rows += len(table)
        tokens += sum(table["n_tokens"].to_pylist())
        report_progress(what, rows, rows_to_do, "responses", tokens / (time.monotonic() - started))


def _tokenize(spec: GenerationSpec, shards: list[list[dict]]) -> list[list[list[int]]]:
    from rao_kedro.models.chat import prompt_token_ids
    from rao_kedro.models.chat_format import ChatFormat, load_chat_format

    def ids_of(chat: ChatFormat, prompt: dict) -> list[int]:
        try:
            return prompt_token_ids(chat, prompt["messages"])
        except ModelError as error:
            raise GenerationError(f"{spec.prompts_path}: prompt {prompt['prompt_id']!r}: {error}") from error

    chat = load_chat_format(spec.model_dir, spec.chat_template_kwargs)
    room = spec.max_model_len - spec.sampling.max_tokens
    tokenized = []
    for shard in shards:
        tokenized.append([ids_of(chat, prompt) for prompt in shard])
        for prompt, ids in zip(shard, tokenized[-1], strict=True):
            if len(ids) > room:
                raise GenerationError(
                    f"{spec.prompts_path}: prompt {prompt['prompt_id']!r} has {len(ids)} tokens, and max_model_len "
                    f"{spec.max_model_len} leaves {room} beside max_tokens {spec.sampling.max_tokens}: raise "
                    "max_model_len"
                )
    return tokenized


def _shard_seed(seed: int, shard: int) -> int:
    """Return the seed of one shard."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{shard}".encode()).digest()[:4])


def _shard_table(
    tokenizer: "PreTrainedTokenizerBase",
    prompts: list[dict],
    prompt_ids: list[list[int]],
    completions: Sequence[Sequence[Completion]],
) -> pa.Table:
    rows = [
        {
            **prompt,
            "sample": sample,
            "response": add_opening_tag(tokenizer, ids, completion.text),
            "n_tokens": len(completion.token_ids),
            "finish_reason": completion.finish_reason,
            "response_ids": completion.token_ids,
            "prompt_ids": ids,
        }
        for prompt, ids, samples in zip(prompts, prompt_ids, completions, strict=True)
        for sample, completion in enumerate(samples)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


if __name__ == "__main__":
    worker_main(main)
