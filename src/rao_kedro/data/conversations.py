"""Builds conversations from rows, checks them, and quarantines what cannot be used, with a reason.

Every input row becomes a conversation, a part of one, or a quarantined row.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rao_kedro.config.data_engineering import ConversationFiles, ConversationSource
from rao_kedro.data.arrow_schemas import CONVERSATIONS
from rao_kedro.data.columns import read_content
from rao_kedro.data.conversation_formats import (
    CONVERSATION_FORMATS,
    TREE_MESSAGES,
    RawConversation,
    refuse_unlearnable,
    sniff_conversation,
)
from rao_kedro.data.conversation_trees import MessageTrees
from rao_kedro.data.digests import DigestSet, digest
from rao_kedro.data.messages import RENDERED, Message, is_visible, without_system
from rao_kedro.data.quarantine import NoGroupsLeftError, QuarantineFile, QuarantineReason, UnusableRow
from rao_kedro.data.readers import RawRow, read_rows
from rao_kedro.data.table_files import TableWriter


def read_conversations(files: ConversationFiles, directory: Path) -> tuple[Path, Path]:
    """Read the rows of all sources, and write them as two tables, the validation split first.

    Args:
        files: The sources. A training conversation that begins with the prompt of a validation conversation is
            quarantined.
        directory: Where the tables are written.

    Returns:
        Paths of tables of `ConversationTable` and `QuarantineTable`.

    Raises:
        NoGroupsLeftError: No training conversation is left; says why rows were dropped.
        DataError: A source cannot be read.
    """
    with (
        TableWriter(directory / "conversations.parquet", CONVERSATIONS) as kept,
        QuarantineFile(directory / "unreadable_conversations.parquet") as quarantine,
    ):
        builder = ConversationBuilder(kept, quarantine, files.validation_share if files.validation is None else 0.0)
        for split, source in (("validation", files.validation), ("train", files.train)):
            if source is not None:
                builder.read(split, source)
    require_conversations(builder.counts, quarantine)
    return kept.path, quarantine.path


def require_conversations(counts: Mapping[str, int], quarantine: QuarantineFile) -> None:
    """Refuse data without a training conversation.

    Args:
        counts: Conversations by split.
        quarantine: What was quarantined.

    Raises:
        NoGroupsLeftError: There is none; says why rows were dropped.
    """
    if not counts.get("train"):
        raise NoGroupsLeftError("no training conversation is left", quarantine.reasons, quarantine.path)


class ConversationBuilder:
    """Turns rows into conversations. Validation sources come first, so that their prompts are known."""

    def __init__(self, conversations: TableWriter, quarantine: QuarantineFile, validation_share: float) -> None:
        """Start with no conversations.

        Args:
            conversations: Takes the conversations.
            quarantine: Takes the rows that cannot be used.
            validation_share: Share of the training conversations that moves to the validation split.
        """
        self.counts: Counter[str] = Counter()
        self._conversations, self._quarantine, self._share = conversations, quarantine, validation_share
        self._seen, self._held_out = DigestSet(), DigestSet()

    def read(self, split: str, source: ConversationSource) -> None:
        """Add the rows of a source."""
        trees = MessageTrees()
        for row in read_rows(source):
            with self._quarantine.instead_of(row):
                content = read_content(row, source.columns)
                refuse_unlearnable(content)
                name = sniff_conversation(content) if source.format == "auto" else source.format
                if name == TREE_MESSAGES:
                    trees.take(row, content)
                else:
                    self._add(split, row, CONVERSATION_FORMATS[name](content))
        for row, found in trees.conversations():
            with self._quarantine.instead_of(row):
                if isinstance(found, UnusableRow):
                    raise found
                self._add(split, row, found)

    def _add(self, split: str, row: RawRow, raw: RawConversation) -> None:
        found = self._conversation(split, row, raw)
        self._conversations.write(found)
        self.counts[found["split"]] += 1

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


def _parts(messages: Iterable[Mapping[str, str]]) -> list[str]:
    return [part for message in messages for part in (message["role"], message["content"])]


def _first_answer(messages: Sequence[Message]) -> int:
    return next(i for i, message in enumerate(messages) if message["role"] == "assistant")
