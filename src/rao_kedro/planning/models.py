"""Checks of models without loading them: where a model is, its size, its longest sequence, its chat template."""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from rao_kedro.config.data_engineering import ModelParameters, TemplateOfModel
from rao_kedro.errors import ModelError, ParameterError
from rao_kedro.models.chat_templates import shipped_names
from rao_kedro.models.checks import ADAPTER, check_causal_lm, check_settings, read_settings, weight_files
from rao_kedro.models.gguf import find_packaged_gguf
from rao_kedro.planning.steps import Run

# Every kind of tokenizer has at least one of these files.
_TOKENIZERS = ("tokenizer*", "vocab*", "spiece.model", "sentencepiece*", "merges.txt", "*.tiktoken", "tekken.json")
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


class ModelFacts(NamedTuple):
    """What a model's files say.

    Attributes:
        weights: Number of weights.
        positions: Tokens of the longest sequence; None where the settings do not say so plainly (scaled RoPE).
        assumed: Whether there are no files yet, and the parameter `planning` says it.
    """

    weights: int
    positions: int | None
    assumed: bool = False


def facts(run: Run) -> ModelFacts | None:
    """Return what is known of the base model, whose size all policies and reward models have; None if nothing is."""
    imported = run.path("base_model")
    if imported is not None:
        return _facts_of_checkpoint(imported)
    model: ModelParameters = run.parameter("model")
    directory = Path(model.name).expanduser()
    if model.source == "checkpoint" and directory.is_dir():
        return _facts_of_checkpoint(directory)
    weights = run.planning().weights
    return None if weights is None else ModelFacts(weights, None, assumed=True)


def import_problems(model: ModelParameters, parameter: str = "model") -> Iterator[str]:
    """Yield why a model that a parameter names could not be imported, judged by names and small files."""
    try:
        if model.source == "gguf_package":
            find_packaged_gguf(model.name)
        elif model.source == "checkpoint":
            yield from checkpoint_problems(f"{parameter}.name", model.name, model.revision, base=True)
    except ModelError as error:
        yield f"parameter {parameter}.name: {error}"
    if isinstance(named := model.chat_template, TemplateOfModel):
        yield from _name_problems(f"{parameter}.chat_template.model", named.model, named.revision)
    elif named is not None and named not in shipped_names():
        yield from template_problems(f"{parameter}.chat_template", Path(named).expanduser())


def checkpoint_problems(parameter: str, name: str, revision: str | None = None, base: bool = False) -> Iterator[str]:
    """Yield why a checkpoint that a parameter names could not be used; the hub is not asked.

    Args:
        parameter: The parameter.
        name: A directory or a hub name.
        revision: A hub revision.
        base: Whether it becomes the base model, which may be an adapter or FP8 and must be a causal LM.
    """
    directory = Path(name).expanduser()
    if not directory.is_dir():
        yield from _name_problems(parameter, name, revision)
        return
    try:
        if base and (directory / ADAPTER).exists() and not (directory / "config.json").exists():
            return
        check_settings(directory, quantised=("fp8",) if base else ())
        weight_files(directory)
        if not (directory / "config.json").exists():
            raise ModelError(f"{directory} is not a checkpoint: it needs a config.json and *.safetensors files")
        if not any(True for pattern in _TOKENIZERS for _ in directory.glob(pattern)):
            raise ModelError(f"{directory} has no tokenizer: save the one that belongs to the model beside it")
        if base:
            check_causal_lm(directory)
    except ModelError as error:
        yield f"parameter {parameter}: {error}"


def _name_problems(parameter: str, name: str, revision: str | None) -> Iterator[str]:
    """Yield why a name can be neither a directory nor a model of the hub."""
    if Path(name).expanduser().is_dir():
        return
    if not HUB_NAME.fullmatch(name):
        yield f"parameter {parameter}: {name!r} is neither a directory nor a name of the hub: correct it"
    elif _offline() and not _is_cached(name, revision):
        yield (
            f"parameter {parameter}: {name!r} is no directory, HF_HUB_OFFLINE is set, and no such model was "
            "downloaded before: correct the name, or unset HF_HUB_OFFLINE"
        )


def template_problems(parameter: str, path: Path) -> Iterator[str]:
    """Yield why a Jinja file could not be used: it does not exist, or its syntax is wrong."""
    from jinja2 import Environment, TemplateSyntaxError

    if not path.is_file():
        yield (
            f"parameter {parameter}: there is no file {path}, and no chat template of that name ships: "
            f"{', '.join(shipped_names())}"
        )
        return
    try:
        text = path.read_text(encoding="utf-8")
        Environment(extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do"]).parse(text)
    except TemplateSyntaxError as error:
        if "unknown tag" not in str(error):  # transformers knows one more
            yield f"parameter {parameter}: {path}, line {error.lineno}: {error.message}"
    except (OSError, UnicodeError) as error:
        yield f"parameter {parameter}: {path} cannot be read ({error})"


def template_kwargs_problems(run: Run, parameter: str, kwargs: Mapping[str, Any]) -> Iterator[str]:
    """Yield which of the variables the base model's chat template does not read, if the base model exists already."""
    from rao_kedro.models.chat_format import load_chat_format

    directory = run.path("base_model") if kwargs else None
    if directory is not None:
        try:
            load_chat_format(directory, kwargs)
        except ParameterError as error:
            yield f"parameter {parameter}.{error}"


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _is_cached(name: str, revision: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    files = ("config.json", ADAPTER)
    return any(isinstance(try_to_load_from_cache(name, file, revision=revision), str) for file in files)


@cache
def _facts_of_checkpoint(directory: Path) -> ModelFacts | None:
    try:
        files = weight_files(directory)
        settings = read_settings(directory / "config.json")
    except (ModelError, OSError):
        return None
    return ModelFacts(sum(map(_n_weights, files)), _positions(settings.get("text_config", settings)))


def _n_weights(file: Path) -> int:
    with file.open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _positions(settings: dict[str, Any]) -> int | None:
    rotary = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    plain = rotary.get("rope_type", rotary.get("type", "default")) == "default" if "factor" not in rotary else False
    found = settings.get("max_position_embeddings")
    return found if plain and isinstance(found, int) else None


def long_rows_are_allowed() -> bool:
    """Return whether vLLM is told to accept sequences longer than the model's positions."""
    return os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "0") not in ("0", "")
