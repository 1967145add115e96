"""Tokenises conversations in batches: cuts long ones after an assistant turn, and keeps held-out prompts out.

Knows a tokenizer and tables; no model.
"""

from collections.abc import Mapping, Sequence
from itertools import tee
from pathlib import Path
from typing import Any

from rao_kedro.data.arrow_schemas import TOKENIZED_CONVERSATIONS
from rao_kedro.data.conversation_report import ConversationCounts
from rao_kedro.data.digests import DigestSet, digest
from rao_kedro.data.messages import without_system
from rao_kedro.data.parallel import map_batches
from rao_kedro.data.quarantine import QuarantineFile, QuarantineReason, UnusableRow
from rao_kedro.data.table_files import TableWriter, read_batches, read_rows
from rao_kedro.errors import ModelError
from rao_kedro.models.chat_format import ChatFormat
from rao_kedro.models.conversation_tokens import ChangedTurnError, ConversationTokenizer, ConversationTokens

Messages = Sequence[Mapping[str, str]]


class HeldOutPrompts:
    """Prompts that evaluations or the choice of a checkpoint use, which no conversation may contain.

    A prompt of one turn must not be any turn of the user; one of several must not begin the conversation. System
    messages, and white space around a turn, do not count.
    """

    def __init__(self) -> None:
        """Start with no prompts."""
        self._turns, self._beginnings = DigestSet(), DigestSet()

    def add(self, prompt: Messages) -> None:
        """Add a prompt, which ends with the user's turn."""
        turns = _texts(prompt)
        (self._turns if len(turns) == 1 else self._beginnings).add(digest(*turns))

    def found_in(self, conversation: Messages) -> bool:
        """Return whether the conversation contains one of the prompts."""
        turns = _texts(conversation)
        return any(
            digest(turns[i]) in self._turns
            or (len(self._beginnings) > 0 and digest(*turns[: i + 1]) in self._beginnings)
            for i in range(0, len(turns), 2)
        )


def read_held_out(groups_path: Path, prompts_path: Path) -> dict[str, HeldOutPrompts]:
    """Return, for each split of the conversations, the prompts that it must not contain.

    Args:
        groups_path: Table of `TokenizedGroupTable`. The prompts of its split `validation` choose checkpoints.
        prompts_path: Table of `EvaluationPromptTable`.
    """
    held_out = {"train": HeldOutPrompts(), "validation": HeldOutPrompts()}
    for row in read_rows(groups_path, ["split", "messages"], where=("split", ["test", "validation"])):
        for split in ("train", "validation") if row["split"] == "test" else ("train",):
            held_out[split].add(row["messages"])
    for row in read_rows(prompts_path, ["messages"]):
        for prompts in held_out.values():
            prompts.add(row["messages"])
    return held_out


class TurnTokenizer:
    """Tokenises batches of conversations; it can be sent to other processes."""

    def __init__(self, chat: ChatFormat, max_tokens: int, held_out: Mapping[str, HeldOutPrompts]) -> None:
        """Choose what is tokenised how.

        Args:
            chat: The policy's chat format.
            max_tokens: Longer conversations are cut after the last assistant turn that fits.
            held_out: See `read_held_out`.
        """
        self.tokenizer, self.max_tokens, self.held_out = ConversationTokenizer(chat), max_tokens, held_out

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | UnusableRow]:
        """Return a row of `TokenizedConversationTable` for each conversation, or why it cannot be used."""
        found = self.tokenizer.tokenize_batch([row["messages"] for row in rows])
        return [self._row(row, tokens) for row, tokens in zip(rows, found, strict=True)]

    def _row(self, row: Mapping[str, Any], tokens: ConversationTokens | ModelError) -> dict[str, Any] | UnusableRow:
        if self.held_out[row["split"]].found_in(row["messages"]):
            if row["split"] == "train":
                detail = "it contains a prompt of the held-out groups or of the evaluation"
                return UnusableRow(QuarantineReason.HELD_OUT_PROMPT_IN_TRAIN, detail)
            detail = "it contains a prompt of the test groups or of the evaluation"
            return UnusableRow(QuarantineReason.TEST_PROMPT_IN_VALIDATION, detail)
        try:
            kept, cut_turns = _cut(row["messages"], tokens, self.tokenizer, self.max_tokens)
        except UnusableRow as problem:
            return problem
        about = {"conversation_id": row["conversation_id"], "split": row["split"]}
        return about | {"ids": kept.ids, "learned": kept.learned, "turns": len(kept.ends), "cut_turns": cut_turns}


def tokenize_conversations(
    path: Path, tokenize: TurnTokenizer, tokenized_path: Path, quarantine: QuarantineFile, num_proc: int = 1
) -> ConversationCounts:
    """Tokenise a table of conversations.

    Args:
        path: Table of `ConversationTable`.
        tokenize: Tokenises a batch.
        tokenized_path: Table of `TokenizedConversationTable` to write.
        quarantine: Takes the conversations that cannot be used.
        num_proc: Processes that tokenise.

    Returns:
        What the report says.
    """
    counts = ConversationCounts()
    with TableWriter(tokenized_path, TOKENIZED_CONVERSATIONS) as writer:
        batches, again = tee(batch.to_pylist() for batch in read_batches(path))
        for rows, found in zip(batches, map_batches(tokenize, again, num_proc), strict=True):
            for row, tokenized in zip(rows, found, strict=True):
                if isinstance(tokenized, UnusableRow):
                    quarantine.add(row["source"], tokenized.reason, tokenized.detail, row["messages"])
                else:
                    writer.write(tokenized)
                    counts.add(row, tokenized)
    return counts


def _cut(
    messages: Messages, found: ConversationTokens | ModelError, tokenizer: ConversationTokenizer, max_tokens: int
) -> tuple[ConversationTokens, int]:
    """Return the tokens up to the last assistant turn that fits, and the number of assistant turns that do not.

    A part of a conversation is tokenised anew, since templates may write its last turn differently.
    """
    cut = 0
    while True:
        if isinstance(found, ChangedTurnError):
            raise UnusableRow(QuarantineReason.TEMPLATE_CHANGES_TURN, str(found)) from found
        if isinstance(found, ModelError):
            raise UnusableRow(QuarantineReason.TEMPLATE_ERROR, str(found)) from found
        if len(found.ids) <= max_tokens:
            return found, cut
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        fitting = sum(end <= max_tokens for end in found.ends[:-1])
        if not fitting:
            detail = f"its first turns have {found.ends[0]} tokens, and {max_tokens} fit (max_conversation_tokens)"
            raise UnusableRow(QuarantineReason.FIRST_TURN_TOO_LONG, detail)
        cut += len(answers) - fitting
        messages = messages[: answers[fitting - 1] + 1]
        (found,) = tokenizer.tokenize_batch([messages])


def _texts(messages: Messages) -> list[str]:
    return [message["content"].strip() for message in without_system([dict(message) for message in messages])]
