"""Imports the base model as a plain checkpoint: from an installed package's GGUF, a directory, or the hub.

The model is inspected once, before anything is computed with it. A model that cannot be used is refused. A fault that
can be repaired is repaired in the import and logged; the original stays as it is.
"""

import json
import logging
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rao_kedro.config.data_engineering import ModelParameters
from rao_kedro.config.specs import ModelImportSpec
from rao_kedro.errors import ModelError
from rao_kedro.files import replacing_directory, write_text
from rao_kedro.models.chat_format import open_tokenizer
from rao_kedro.models.checks import (
    ADAPTER,
    INDEX,
    check_causal_lm,
    check_settings,
    check_tokens,
    quantisation,
    read_settings,
    weight_files,
)
from rao_kedro.models.conversion import dequantise_fp8, find_base, merge_adapter
from rao_kedro.models.embeddings import add_to_tokenizer, give_control_tokens
from rao_kedro.models.gguf import convert_gguf, packaged_gguf
from rao_kedro.models.given_templates import GivenTemplate, given_template
from rao_kedro.models.hub import SETTINGS_FILES, local_checkpoint
from rao_kedro.models.templates import (
    begins_with_bos,
    check_template,
    control_tokens,
    default_template,
    fix_date,
    system_messages,
    turn_end,
)
from rao_kedro.models.tiny import build_tiny_checkpoint
from rao_kedro.workers import worker_main

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def main(spec_path: str) -> None:
    """Write the checkpoint that a spec file describes.

    Raises:
        ModelError: The model does not exist or cannot be used; the message says why and what to do.
    """
    spec = ModelImportSpec.model_validate_json(Path(spec_path).read_text())
    given = given_template(spec.model.chat_template)
    with replacing_directory(spec.output_dir) as partial:
        match spec.model.source:
            case "gguf_package":
                with packaged_gguf(spec.model.name) as path:
                    convert_gguf(path, None, partial, chat_template=given.text if given else None)
                apply_repairs(inspect_chat(partial, partial, given), partial)
            case "tiny_random":
                build_tiny_checkpoint(partial)
                apply_repairs(inspect_chat(partial, partial, given), partial)
            case "checkpoint":
                import_checkpoint(_download(spec.model), partial, given)


def _download(model: ModelParameters) -> Path:
    """Return the directory of a model. Its settings are checked before its weights are downloaded."""
    settings = local_checkpoint(model.name, model.revision, SETTINGS_FILES)
    if not (settings / ADAPTER).exists():
        check_settings(settings, quantised=("fp8",))
    return local_checkpoint(model.name, model.revision)


def import_checkpoint(source: Path, target: Path, given: GivenTemplate | None = None) -> None:
    """Fill `target` with a plain checkpoint of `source`. Files are linked, so that many GB of weights are not copied.

    An adapter is merged into its base model, and FP8 weights are dequantised.

    Args:
        source: A checkpoint, or an adapter.
        target: The directory to fill.
        given: A chat template that replaces the model's own.

    Raises:
        ModelError: `source` cannot be used; the message says why and what to do.
    """
    if (source / ADAPTER).exists() and not (source / "config.json").exists():
        base = find_base(source)
        with_tokenizer = source if (source / "tokenizer_config.json").exists() else base
        repairs = inspect_chat(with_tokenizer, base, given)
        _save(merge_adapter(source, base), target)
        _link(_small_files(with_tokenizer), with_tokenizer, target)
        repairs.remarks.append(f"the adapter in {source} was merged into {base}")
    else:
        if not (source / "config.json").exists():
            raise ModelError(f"{source} is not a checkpoint: it needs a config.json and *.safetensors files")
        check_settings(source, quantised=("fp8",))
        check_causal_lm(source)
        weights = weight_files(source)
        repairs = inspect_chat(source, source, given)
        if quantisation(read_settings(source / "config.json")):
            _save(dequantise_fp8(source), target)
            repairs.remarks.append(f"the FP8 weights of {source} were dequantised")
        else:
            repairs.inspect_model(source, weights)
            _link([*weights, *source.glob(INDEX)], source, target)
        _link(_small_files(source), source, target)
    apply_repairs(repairs, target)


def _save(model: "PreTrainedModel", target: Path) -> None:
    from rao_kedro.models.loading import write_checkpoint

    model.config._name_or_path = ""
    write_checkpoint(model, None, target)


def _small_files(source: Path) -> list[Path]:
    """Return the files of settings, tokenizer and chat templates, without the index of the weights."""
    files = {path for pattern in SETTINGS_FILES for path in source.glob(pattern)}
    return sorted(path for path in files if path.name not in (INDEX, ADAPTER))


def _link(files: Iterable[Path], source: Path, target: Path) -> None:
    """Link files into `target`, except those whose names it has already."""
    for path in files:
        link = target / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(path.resolve())


@dataclass
class Repairs:
    """Differences between an imported checkpoint and its original.

    Attributes:
        files: New contents of files, by name.
        remarks: Warnings to log.
        control_tokens: Tokens that the model must know.
    """

    files: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    control_tokens: list[str] = field(default_factory=list)

    def settings(self, directory: Path, name: str) -> dict[str, Any]:
        """Return a file of settings as it is after the repairs so far; empty if there is none."""
        if name in self.files:
            return dict(json.loads(self.files[name]))
        return read_settings(directory / name) if (directory / name).exists() else {}

    def change(self, directory: Path, name: str, **fields: object) -> None:
        """Set fields of a file of settings."""
        self.files[name] = json.dumps(self.settings(directory, name) | fields, indent=2, ensure_ascii=False)

    def inspect_model(self, directory: Path, weights: list[Path]) -> None:
        """Refuse a model that cannot be trained, and correct a configuration that ties an untied head.

        Raises:
            ModelError: Weights are missing, or the model cannot be trained on packed groups.
        """
        from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

        from rao_kedro.models.loading import causal_lm_without_weights
        from rao_kedro.models.packing import layers_that_do_not_pack

        model: Any = causal_lm_without_weights(directory)
        if reason := layers_that_do_not_pack(model):
            raise ModelError(
                f"{directory} cannot be trained, since {type(model).__name__} cannot be computed on packed groups: "
                f"{reason}. Name a model of another architecture"
            )
        if type(model.config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
            self.remarks.append(
                f"transformers has no sequence classifier of {type(model).__name__}: for a trained reward model, set "
                "reward_modeling.start to another model; the method dro has no value network"
            )
        if model.config.get_text_config().tie_word_embeddings and _differ(weights, model._tied_weights_keys or {}):
            settings = read_settings(directory / "config.json")
            for part in (settings, settings.get("text_config", {})):
                part["tie_word_embeddings"] = False
            self.files["config.json"] = json.dumps(settings, indent=2)
            self.remarks.append(
                "the model's head differs from its embeddings, but config.json says that they are tied: "
                "tie_word_embeddings is false in the import"
            )


def _differ(weights: list[Path], pairs: dict[str, str]) -> bool:
    """Return whether both weights of a pair are stored, and differ."""
    from safetensors import safe_open

    found: dict[str, Any] = {}
    for path in weights:
        with safe_open(path, "pt") as file:
            wanted = {*pairs, *pairs.values()} & {*file.keys()}
            found |= {name: file.get_tensor(name) for name in wanted}
    return any(a in found and b in found and not found[a].equal(found[b]) for a, b in pairs.items())


def inspect_chat(tokenizer_dir: Path, model_dir: Path, given: GivenTemplate | None) -> Repairs:
    """Try a model's tokenizer and chat template, and return the repairs that they need.

    Args:
        tokenizer_dir: Directory of the tokenizer.
        model_dir: Directory of the model's configuration.
        given: A chat template that replaces the tokenizer's own.

    Raises:
        ModelError: The tokenizer or the chat template cannot be used.
    """
    repairs = Repairs()
    tokenizer = open_tokenizer(tokenizer_dir)
    own = tokenizer.chat_template
    wanted = own if given is None else _with_bos(tokenizer, given, repairs)
    tokenizer.chat_template = fix_date(wanted, tokenizer_dir)
    if tokenizer.chat_template != wanted:
        repairs.remarks.append("the chat template printed today's date: in the import it always prints 26 Jul 2024")
    usable = check_template(tokenizer, tokenizer_dir)
    if usable != default_template(tokenizer):
        repairs.remarks.append(
            "the chat template wrote reasoning into responses: enable_thinking is false in the import"
        )
        tokenizer.chat_template = usable
    check_tokens(tokenizer, model_dir)
    if tokenizer.chat_template != own:
        repairs.files["chat_template.jinja"] = default_template(tokenizer)
        settings = read_settings(tokenizer_dir / "tokenizer_config.json")
        if settings.pop("chat_template", None):  # else an engine might read the old template
            repairs.files["tokenizer_config.json"] = json.dumps(settings, indent=2, ensure_ascii=False)
    if given is not None:
        repairs.control_tokens = control_tokens(tokenizer, usable, given.source, given.control_tokens)
        add_to_tokenizer(tokenizer, repairs.control_tokens, tokenizer_dir)
        _choose_padding(tokenizer, tokenizer_dir, model_dir, repairs)
    _inspect_end_of_turn(tokenizer.eos_token_id, turn_end(tokenizer, usable), model_dir, repairs)
    logger.info("chat template: system messages are %s", system_messages(tokenizer, usable))
    return repairs


def _with_bos(tokenizer: "PreTrainedTokenizerBase", given: GivenTemplate, repairs: Repairs) -> str:
    """Return a given template; one that ships writes BOS if the tokenizer begins texts with it."""
    if begins_with_bos(tokenizer, given.text, given.source):
        return given.text
    if given.shipped:
        repairs.remarks.append(f"the model's texts begin with {tokenizer.bos_token}, so {given.source} writes it first")
        return "{{- bos_token }}" + given.text
    repairs.remarks.append(
        f"the model's texts begin with {tokenizer.bos_token}, but {given.source} does not write it: if the model needs "
        "it, write {{- bos_token }} at the beginning of the template"
    )
    return given.text


# Tokens for padding, in the order in which they are taken; the last two are not meant for it.
PADDING = ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<|endoftext|>", "<unk>")


def _choose_padding(
    tokenizer: "PreTrainedTokenizerBase", tokenizer_dir: Path, model_dir: Path, repairs: Repairs
) -> None:
    """Name a padding token, which base models often lack, and which should not be one that ends a turn."""
    if tokenizer.pad_token is not None:
        return
    vocabulary = tokenizer.get_vocab()
    token = next((token for token in PADDING if token in vocabulary), tokenizer.eos_token)
    if token is not None:
        repairs.change(tokenizer_dir, "tokenizer_config.json", pad_token=token)
        repairs.change(model_dir, "generation_config.json", pad_token_id=vocabulary[token])
        repairs.remarks.append(f"the tokenizer had no padding token: it is {token} in the import")


def _inspect_end_of_turn(eos: int | None, end: int | None, model_dir: Path, repairs: Repairs) -> None:
    """Add the token with which the chat template ends a turn to those at which generation stops."""
    name = "generation_config.json"
    named = repairs.settings(model_dir, name).get("eos_token_id")
    stops = {*(named if isinstance(named, list) else [named]), eos} - {None}
    if end is not None and end not in stops:
        repairs.change(model_dir, name, eos_token_id=sorted({*stops, end}))
        repairs.remarks.append(
            f"the chat template ends a response with token {end}, at which generation did not stop: the import adds "
            "it to eos_token_id of generation_config.json"
        )
    elif not stops:
        raise ModelError(
            f"no token ends a response of {model_dir}: its tokenizer has no eos_token, its generation_config.json no "
            "eos_token_id, and its chat template no special token after a response. Set one of them"
        )


def apply_repairs(repairs: Repairs, target: Path) -> None:
    """Write the repaired files, which replace links, and log the remarks."""
    for name, text in repairs.files.items():
        write_text(target / name, text)
    if "chat_template.jinja" in repairs.files:
        shutil.rmtree(target / "additional_chat_templates", ignore_errors=True)
    if repairs.control_tokens:
        repairs.remarks += give_control_tokens(target, repairs.control_tokens)
    for remark in repairs.remarks:
        logger.warning("base model: %s", remark)


if __name__ == "__main__":
    worker_main(main)
