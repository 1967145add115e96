"""Brings the base model in as a plain checkpoint: from an installed package's GGUF, a directory, or the hub.

Here a model is looked at once, before anything is computed with it: what cannot be used is refused, what can be mended
is mended in the import and said; the original is left alone.
"""

import json
import logging
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rao_kedro.config.specs import ModelImportSpec, ModelParameters
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
from rao_kedro.models.conversion import base_of, dequantise_fp8, merge_adapter
from rao_kedro.models.gguf import convert_gguf, find_packaged_gguf
from rao_kedro.models.hub import SETTINGS_FILES, local_checkpoint
from rao_kedro.models.templates import (
    check_template,
    default_template,
    system_messages,
    turn_end,
    with_fixed_date,
)
from rao_kedro.models.tiny import build_tiny_checkpoint
from rao_kedro.workers import worker_main

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def main(spec_path: str) -> None:
    """Write the checkpoint that a spec file asks for.

    Raises:
        ModelError: There is no such model, or it cannot be used; says why and what to do.
    """
    spec = ModelImportSpec.model_validate_json(Path(spec_path).read_text())
    template = _given_template(spec.model)
    with replacing_directory(spec.output_dir) as partial:
        match spec.model.source:
            case "gguf_package":
                convert_gguf(find_packaged_gguf(spec.model.name), None, partial, chat_template=template)
                mend(look_at_chat(partial, partial, None), partial)
            case "tiny_random":
                build_tiny_checkpoint(partial)
                mend(look_at_chat(partial, partial, template), partial)
            case "checkpoint":
                import_checkpoint(_downloaded(spec.model), partial, template)


def _given_template(model: ModelParameters) -> str | None:
    if model.chat_template is None:
        return None
    path = model.chat_template.expanduser()
    if not path.is_file():
        raise ModelError(f"there is no file {path}, which the parameter model.chat_template names")
    return path.read_text(encoding="utf-8")


def _downloaded(model: ModelParameters) -> Path:
    """Return the directory of a model, looked at before its weights are downloaded."""
    settings = local_checkpoint(model.name, model.revision, SETTINGS_FILES)
    if not (settings / ADAPTER).exists():
        check_settings(settings, quantised=("fp8",))
    return local_checkpoint(model.name, model.revision)


def import_checkpoint(source: Path, target: Path, template: str | None = None) -> None:
    """Make `target` a plain checkpoint of `source`: links, so that weights of many GB are not copied.

    An adapter is merged onto its base model, and FP8 weights are dequantised.

    Args:
        source: A checkpoint, or an adapter.
        target: The directory to make.
        template: A chat template in place of the model's own.

    Raises:
        ModelError: `source` cannot be used; says why and what to do.
    """
    if (source / ADAPTER).exists() and not (source / "config.json").exists():
        base = base_of(source)
        with_tokenizer = source if (source / "tokenizer_config.json").exists() else base
        mends = look_at_chat(with_tokenizer, base, template)
        _save(merge_adapter(source, base), target)
        _link(_small_files(with_tokenizer), with_tokenizer, target)
        mends.remarks.append(f"the adapter in {source} was merged onto {base}")
    else:
        if not (source / "config.json").exists():
            raise ModelError(f"{source} is not a checkpoint: it needs a config.json and *.safetensors files")
        check_settings(source, quantised=("fp8",))
        check_causal_lm(source)
        weights = weight_files(source)
        mends = look_at_chat(source, source, template)
        if quantisation(read_settings(source / "config.json")):
            _save(dequantise_fp8(source), target)
            mends.remarks.append(f"the FP8 weights of {source} were dequantised")
        else:
            mends.look_at_model(source, weights)
            _link([*weights, *source.glob(INDEX)], source, target)
        _link(_small_files(source), source, target)
    mend(mends, target)


def _save(model: "PreTrainedModel", target: Path) -> None:
    from rao_kedro.models.loading import write_checkpoint

    model.config._name_or_path = ""
    write_checkpoint(model, None, target)


def _small_files(source: Path) -> list[Path]:
    """Return the files that are no weights and belong to none."""
    files = {path for pattern in SETTINGS_FILES for path in source.glob(pattern)}
    return sorted(path for path in files if path.name not in (INDEX, ADAPTER))


def _link(files: Iterable[Path], source: Path, target: Path) -> None:
    """Link files in `target` where it has none of that name yet."""
    for path in files:
        link = target / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(path.resolve())


@dataclass
class Mends:
    """What is changed in an import.

    Attributes:
        files: New contents by file name.
        remarks: What the user is told of it.
    """

    files: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def look_at_model(self, directory: Path, weights: list[Path]) -> None:
        """Refuse what cannot be trained, and publish a head as what it is: untied, whatever the configuration says.

        Raises:
            ModelError: The weights do not fill the model, or it cannot be trained on packed groups.
        """
        from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

        from rao_kedro.models.loading import causal_lm_without_weights
        from rao_kedro.models.packing import layers_that_do_not_pack

        model: Any = causal_lm_without_weights(directory)
        if reason := layers_that_do_not_pack(model):
            raise ModelError(
                f"{directory} cannot be trained here: {type(model).__name__} cannot be computed on packed groups: "
                f"{reason}. Name a model of another architecture"
            )
        if type(model.config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
            self.remarks.append(
                f"transformers has no sequence classifier of {type(model).__name__}: let reward_modeling.start name "
                "another model, or let the rewards come from elsewhere; dro has no value network"
            )
        if model.config.get_text_config().tie_word_embeddings and _differ(weights, model._tied_weights_keys or {}):
            settings = read_settings(directory / "config.json")
            for part in (settings, settings.get("text_config", {})):
                part["tie_word_embeddings"] = False
            self.files["config.json"] = json.dumps(settings, indent=2)
            self.remarks.append(
                "the model's head is not its embeddings, though config.json says that they are tied: "
                "tie_word_embeddings is false in the import"
            )


def _differ(weights: list[Path], pairs: dict[str, str]) -> bool:
    """Return whether one of the pairs of weights is stored twice, and not twice the same."""
    from safetensors import safe_open

    found: dict[str, Any] = {}
    for path in weights:
        with safe_open(path, "pt") as file:
            wanted = {*pairs, *pairs.values()} & {*file.keys()}
            found |= {name: file.get_tensor(name) for name in wanted}
    return any(a in found and b in found and not found[a].equal(found[b]) for a, b in pairs.items())


def look_at_chat(tokenizer_dir: Path, model_dir: Path, template: str | None) -> Mends:
    """Try a model's tokenizer and chat template, and return what is to be changed.

    Args:
        tokenizer_dir: Where the tokenizer is.
        model_dir: Where the model's configuration is.
        template: A chat template in place of the tokenizer's own.

    Raises:
        ModelError: They cannot be used.
    """
    mends = Mends()
    tokenizer = open_tokenizer(tokenizer_dir)
    own = tokenizer.chat_template
    tokenizer.chat_template = with_fixed_date(template or own, tokenizer_dir)
    if tokenizer.chat_template != (template or own):
        mends.remarks.append("the chat template printed today's date: in the import it prints 26 Jul 2024 every day")
    usable = check_template(tokenizer, tokenizer_dir)
    if usable != default_template(tokenizer):
        mends.remarks.append("the chat template wrote reasoning into answers: enable_thinking is false in the import")
        tokenizer.chat_template = usable
    check_tokens(tokenizer, model_dir)
    if tokenizer.chat_template != own:
        mends.files["chat_template.jinja"] = default_template(tokenizer)
        settings = read_settings(tokenizer_dir / "tokenizer_config.json")
        if settings.pop("chat_template", None):  # one template, and no engine that takes the other
            mends.files["tokenizer_config.json"] = json.dumps(settings, indent=2, ensure_ascii=False)
    _look_at_end_of_turn(tokenizer.eos_token_id, turn_end(tokenizer, usable), model_dir, mends)
    logger.info("chat template: system messages are %s", system_messages(tokenizer, usable))
    return mends


def _look_at_end_of_turn(eos: int | None, end: int | None, model_dir: Path, mends: Mends) -> None:
    """Make generation stop where the chat template ends an answer."""
    path = model_dir / "generation_config.json"
    settings = read_settings(path) if path.exists() else {}
    named = settings.get("eos_token_id")
    stops = {*(named if isinstance(named, list) else [named]), eos} - {None}
    if end is not None and end not in stops:
        settings["eos_token_id"] = sorted({*stops, end})
        mends.files[path.name] = json.dumps(settings, indent=2)
        mends.remarks.append(
            f"the chat template ends an answer with token {end}, at which generation did not stop: it is added to "
            "eos_token_id of generation_config.json in the import"
        )
    elif not stops:
        raise ModelError(
            f"nothing ends an answer of {model_dir}: neither its tokenizer's eos_token, nor eos_token_id in its "
            "generation_config.json, nor a special token of the chat template. Set one of them"
        )


def mend(mends: Mends, target: Path) -> None:
    """Write what is changed, in place of links where there are some, and say so."""
    for name, text in mends.files.items():
        write_text(target / name, text)
    if "chat_template.jinja" in mends.files:
        shutil.rmtree(target / "additional_chat_templates", ignore_errors=True)
    for remark in mends.remarks:
        logger.warning("base model: %s", remark)


if __name__ == "__main__":
    worker_main(main)
