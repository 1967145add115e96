"""How the model of a checkpoint writes a chat: its tokenizer, its chat template and the tokens that end a response."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rao_kedro.errors import ModelError
from rao_kedro.models.templates import refuse_unread, with_fixed_date

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ChatFormat:
    """How a model writes a chat.

    Attributes:
        tokenizer: With a chat template.
        end_of_turn_ids: Tokens at which generation stops, ascending; at least one.
        n_embeddings: Token ids that the model has embeddings for; None where its configuration does not say.
        template_kwargs: Variables that the chat template reads, beside the messages.
    """

    tokenizer: "PreTrainedTokenizerBase"
    end_of_turn_ids: tuple[int, ...]
    n_embeddings: int | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @cached_property
    def control_tokens(self) -> dict[str, int]:
        """Spellings and ids of the tokens that only a template writes, the longest first.

        These are special tokens and those that end a turn. Tokens that a tokenizer adds as ordinary ones (Qwen's
        `<think>`) belong to texts.
        """
        added = self.tokenizer.added_tokens_decoder
        control = {t.content: i for i, t in added.items() if t.special or i in self.end_of_turn_ids}
        return {text: control[text] for text in sorted(control, key=len, reverse=True)}

    @cached_property
    def adds_prefix(self) -> bool:
        """Whether the tokenizer puts a space before a text (Metaspace), so that parts of a text have other tokens."""
        return self.text_ids("\na") != self.text_ids("\n") + self.text_ids("a")

    @property
    def final_id(self) -> int:
        """The token that ends a response where the template itself writes none: the tokenizer's EOS if it has one."""
        eos: Any = self.tokenizer.eos_token_id
        return self.end_of_turn_ids[0] if eos is None else int(eos)

    def text_ids(self, text: str, **options: Any) -> list[int]:
        """Return the ids of a text by itself; `options` are the tokenizer's.

        Raises:
            ModelError: The text holds half of a surrogate pair.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ModelError(f"the text is no valid Unicode: {error}") from error
        return list(self.tokenizer(text, add_special_tokens=False, **options)["input_ids"]) if text else []


def load_chat_format(model_dir: str | Path, template_kwargs: Mapping[str, Any] | None = None) -> ChatFormat:
    """Load how the model of a checkpoint writes a chat.

    Args:
        model_dir: A checkpoint directory with its tokenizer.
        template_kwargs: Variables that the chat template reads, beside the messages.

    Raises:
        ModelError: The directory has no tokenizer, no chat template or no end-of-turn token; says what to add.
        ParameterError: The chat template does not read one of the variables.
    """
    tokenizer = load_tokenizer(model_dir)
    refuse_unread(template_kwargs or {}, tokenizer, model_dir)
    config = _read_json(Path(model_dir) / "config.json")
    n_embeddings = (config.get("text_config") or config).get("vocab_size")
    ends = tuple(end_of_turn_ids(model_dir, tokenizer))
    return ChatFormat(tokenizer, ends, n_embeddings, template_kwargs or {})


def load_tokenizer(model_dir: str | Path) -> "PreTrainedTokenizerBase":
    """Load a tokenizer that can format a chat; a template that prints the date prints the same one every day.

    Raises:
        ModelError: The directory has no tokenizer or no chat template; says what to add.
    """
    tokenizer = open_tokenizer(model_dir)
    tokenizer.chat_template = with_fixed_date(tokenizer.chat_template, model_dir)
    return tokenizer


def open_tokenizer(model_dir: str | Path) -> "PreTrainedTokenizerBase":
    """Load a tokenizer as it is.

    Raises:
        ModelError: The directory has no tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(model_dir), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"no tokenizer could be loaded from {model_dir}: save one there with tokenizer.save_pretrained ({error})"
        ) from error


def end_of_turn_ids(model_dir: str | Path, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Return the ids that end a response, ascending: in generation, and so in training.

    They are those of the checkpoint's generation_config.json (without one, of its config.json), and the tokenizer's
    EOS.

    Raises:
        ModelError: There are none.
    """
    directory = Path(model_dir)
    generation = directory / "generation_config.json"
    found = _read_json(generation if generation.exists() else directory / "config.json").get("eos_token_id")
    ids = {tokenizer.eos_token_id, *(found if isinstance(found, list) else [found])} - {None}
    if not ids:
        raise ModelError(f"{model_dir} names no end-of-turn token: set eos_token_id in its generation_config.json")
    return sorted(ids)


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
