"""The chat format of a checkpoint: its tokenizer, its chat template and the tokens that end a response."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rao_kedro.errors import ModelError
from rao_kedro.models.templates import fix_date, refuse_unread

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ChatFormat:
    """The chat format of a model.

    Attributes:
        tokenizer: The tokenizer with its chat template.
        end_of_turn_ids: Tokens at which generation stops, ascending; at least one.
        n_embeddings: Number of the model's token embeddings; None if its configuration does not state it.
        template_kwargs: Variables that the chat template reads besides the messages.
    """

    tokenizer: "PreTrainedTokenizerBase"
    end_of_turn_ids: tuple[int, ...]
    n_embeddings: int | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @cached_property
    def control_tokens(self) -> dict[str, int]:
        """Spellings and ids of the tokens that only the template may write, the longest spelling first.

        These are special tokens and end-of-turn tokens. Added tokens that are not special, such as Qwen's `<think>`,
        may be part of texts.
        """
        added = self.tokenizer.added_tokens_decoder
        control = {t.content: i for i, t in added.items() if t.special or i in self.end_of_turn_ids}
        return {text: control[text] for text in sorted(control, key=len, reverse=True)}

    @cached_property
    def control_beginnings(self) -> frozenset[str]:
        """The first two characters of control tokens: a text with none of them spells no control token."""
        return frozenset(token[:2] for token in self.control_tokens)

    @cached_property
    def adds_prefix(self) -> bool:
        """Whether the tokenizer puts a space before a text (Metaspace), which changes the tokens of parts of a text."""
        return self.text_ids("\na") != self.text_ids("\n") + self.text_ids("a")

    @property
    def final_id(self) -> int:
        """The token that ends a response if the template writes none: the tokenizer's EOS if it has one."""
        eos: Any = self.tokenizer.eos_token_id
        return self.end_of_turn_ids[0] if eos is None else int(eos)

    def text_ids(self, text: str, **options: Any) -> list[int]:
        """Return the ids of a text without special tokens; `options` are passed to the tokenizer.

        Raises:
            ModelError: The text contains a lone surrogate.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ModelError(f"the text is not valid Unicode: {error}") from error
        return list(self.tokenizer(text, add_special_tokens=False, **options)["input_ids"]) if text else []


def load_chat_format(model_dir: str | Path, template_kwargs: Mapping[str, Any] | None = None) -> ChatFormat:
    """Load the chat format of a checkpoint.

    Args:
        model_dir: A checkpoint directory with its tokenizer.
        template_kwargs: Variables that the chat template reads besides the messages.

    Raises:
        ModelError: The directory has no tokenizer, no chat template or no end-of-turn token; the message says what to
            add.
        ParameterError: The chat template does not read one of the variables.
    """
    tokenizer = load_tokenizer(model_dir)
    refuse_unread(template_kwargs or {}, tokenizer, model_dir)
    config = _read_json(Path(model_dir) / "config.json")
    n_embeddings = (config.get("text_config") or config).get("vocab_size")
    ends = tuple(end_of_turn_ids(model_dir, tokenizer))
    return ChatFormat(tokenizer, ends, n_embeddings, template_kwargs or {})


def load_tokenizer(model_dir: str | Path) -> "PreTrainedTokenizerBase":
    """Load a tokenizer with a chat template. A template that prints today's date prints a fixed date instead.

    Raises:
        ModelError: The directory has no tokenizer or no chat template; the message says what to add.
    """
    tokenizer = open_tokenizer(model_dir)
    tokenizer.chat_template = fix_date(tokenizer.chat_template, model_dir)
    return tokenizer


def open_tokenizer(model_dir: str | Path) -> "PreTrainedTokenizerBase":
    """Load a tokenizer without changes.

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
    """Return the ids of the tokens that end a response in generation and in training, ascending.

    They are those of the checkpoint's generation_config.json, or of its config.json if there is none, and the
    tokenizer's EOS.

    Raises:
        ModelError: The checkpoint names no such token.
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
