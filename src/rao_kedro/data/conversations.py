"""Builds conversations from rows, checks them, and quarantines what cannot be used, with a reason.

Every input row becomes a conversation, a part of one, or a quarantined row.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa

from rao_kedro.config.data_engineering import ConversationFiles, ConversationSource
from rao_kedro.data.columns import rename_columns
from rao_kedro.data.conversation_formats import (
    CONVERSATION_FORMATS,
    TREE_MESSAGES,
    RawConversation,
    refuse_other_content,
    sniff_conversation,
)
from rao_kedro.data.conversation_trees import MessageTrees
from rao_kedro.data.digests import DigestSet, digest
from rao_kedro.data.fields import Row, replace_nan
from rao_kedro.data.messages import RENDERED, Message, is_visible, without_system
from rao_kedro.data.quarantine import QuarantineReason, UnusableRow, quarantined_row
from rao_kedro.data.readers import RawRow, read_rows
from rao_kedro.data.table_files import TableWriter

MESSAGES = pa.list_(pa.struct([("content", pa.string()), ("role", pa.string())]))
CONVERSATIONS = pa.schema(
    [
        ("conversation_id", pa.string()),
        ("split", pa.string()),
        ("messages", MESSAGES),
        ("source", pa.string()),
        ("dropped_user_turn", pa.bool_()),
        ("other_replies", pa.int32()),
    ]
)
QUARANTINE = pa.schema([(name, pa.string()) for name in ("source", "reason", "detail", "row")])


def read_conversations(files: ConversationFiles, path: Path, quarantine_path: Path) -> None:
    """Read the rows of all sources and write the conversations, the validation split first, and what cannot be used.

    A training conversation that begins with the prompt of a validation conversation is quarantined.

    Args:
        files: The sources.
        path: Table of `ConversationTable` to write.
        quarantine_path: Table of `QuarantineTable` to write.

    Raises:
        DataError: A source cannot be read.
    """
    builder = ConversationBuilder(files.validation_share if files.validation is None else 0.0)
    with ExitStack() as stack:
        kept = stack.enter_context(TableWriter(path, CONVERSATIONS))
        dropped = stack.enter_context(TableWriter(quarantine_path, QUARANTINE))
        for split, source in (("validation", files.validation), ("train", files.train)):
            for row in builder.read(split, source) if source is not None else ():
                (dropped if "reason" in row else kept).write(row)


class ConversationBuilder:
    """Turns rows into conversations. Validation sources come first, so that their prompts are known."""

    def __init__(self, validation_share: float) -> None:
        """Start with no conversations; a share of the training conversations is moved to the validation split."""
        self._share = validation_share
        self._seen, self._held_out = DigestSet(), DigestSet()

    def read(self, split: str, source: ConversationSource) -> Iterator[dict[str, Any]]:
        """Yield rows of `ConversationTable`, and quarantined rows of `QuarantineTable`."""
        trees = MessageTrees()
        for row in read_rows(source):
            try:
                content = _content(row, source)
                refuse_other_content(content)
                name = sniff_conversation(content) if source.format == "auto" else source.format
                if name == TREE_MESSAGES:
                    trees.take(row, content)
                    continue
                found: RawConversation | UnusableRow = CONVERSATION_FORMATS[name](content)
            except UnusableRow as problem:
                found = problem
            except MemoryError:
                raise
            except Exception as error:  # no row ends a run
                found = UnusableRow(QuarantineReason.UNREADABLE, f"{type(error).__name__}: {error}")
            yield self._row(split, row, found)
        for row, found in trees.conversations():
            yield self._row(split, row, found)

    def _row(self, split: str, row: RawRow, found: RawConversation | UnusableRow) -> dict[str, Any]:
        try:
            if isinstance(found, UnusableRow):
                raise found
            return self._conversation(split, row, found)
        except UnusableRow as problem:
            return quarantined_row(row.source, problem.reason, problem.detail, row.content)

    def _conversation(self, split: str, row: RawRow, raw: RawConversation) -> dict[str, Any]:
        messages = check_conversation(raw.messages)
        whole, first = digest(*_parts(messages)), digest(*_parts(messages[: _first_answer(messages)]))
        if whole in self._seen:
            raise UnusableRow(QuarantineReason.DUPLICATE_ROW, "an earlier row has the same conversation")
        if split == "train" and first in self._held_out:
            raise UnusableRow(
                QuarantineReason.HELD_OUT_PROMPT_IN_TRAIN, "a validation conversation begins with the same prompt"
            )
        self._seen.add(whole)
        if split == "validation":
            self._held_out.add(first)
        elif int.from_bytes(first[:8], "big") / 2**64 < self._share:  # by the prompt: no two splits share one
            split = "validation"
        return {
            "conversation_id": whole.hex(),
            "split": split,
            "messages": messages,
            "source": row.source,
            "dropped_user_turn": raw.messages[-1]["role"] == "user",
            "other_replies": raw.other_replies,
        }


def check_conversation(messages: Sequence[Message]) -> list[Message]:
    """Return a conversation without the user's turn at its end, if it has one: there is nothing to learn after it.

    An empty system message is left out.

    Raises:
        UnusableRow: It is not a dialogue: perhaps a system message, then user and assistant in turn, each with text.
    """
    turns = without_system(messages)
    system = [message for message in messages[: len(messages) - len(turns)] if is_visible(message["content"])]
    if not turns:
        raise UnusableRow(QuarantineReason.EMPTY_CONVERSATION, "it has no turn of the user or the assistant")
    kept = turns[:-1] if turns[-1]["role"] == "user" else turns
    if not kept:
        detail = "the user's is the only turn, and the assistant says nothing"
        raise UnusableRow(QuarantineReason.NO_ASSISTANT_TURN, detail)
    roles = [message["role"] for message in turns]
    if repeated := next((i for i in range(1, len(roles)) if roles[i] == roles[i - 1]), None):
        detail = f"turns {repeated} and {repeated + 1} are both of the {roles[repeated]}"
        raise UnusableRow(QuarantineReason.REPEATED_ROLE, detail)
    if roles[0] != "user" or "system" in roles:
        detail = f"it is not a dialogue that the user begins: {', '.join(roles[:10])}"
        raise UnusableRow(QuarantineReason.BAD_DIALOGUE, detail)
    if empty := next((i for i, turn in enumerate(kept, start=1) if not is_visible(turn["content"])), None):
        raise UnusableRow(QuarantineReason.EMPTY_TURN, f"turn {empty}, of the {kept[empty - 1]['role']}, has no text")
    if any(turn["role"] == "user" and RENDERED.match(turn["content"]) for turn in kept):
        detail = "a chat template was already applied to it: give messages, or the plain texts"
        raise UnusableRow(QuarantineReason.BAD_DIALOGUE, detail)
    return [*system, *kept]


def _content(row: RawRow, source: ConversationSource) -> Row:
    """Return a row with its columns named as formats know them."""
    if isinstance(row.content, str):
        known = row.problem == RawRow.problem
        raise UnusableRow(QuarantineReason.INVALID_JSON if known else QuarantineReason.UNREADABLE, row.problem)
    content: Row = replace_nan(row.content)
    return rename_columns(content, source.columns) if source.columns else content


def _parts(messages: Iterable[Mapping[str, str]]) -> list[str]:
    return [part for message in messages for part in (message["role"], message["content"])]


def _first_answer(messages: Sequence[Message]) -> int:
    return next(i for i, message in enumerate(messages) if message["role"] == "assistant")
