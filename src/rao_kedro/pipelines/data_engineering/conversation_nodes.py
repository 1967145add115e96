"""Nodes that make the conversations of supervised fine-tuning."""

from pathlib import Path

import pandas as pd

from rao_kedro.config.data_engineering import ConversationFiles
from rao_kedro.config.workers import WorkerParameters
from rao_kedro.data.conversation_tokens import TurnTokenizer, read_held_out, tokenize_conversations
from rao_kedro.data.conversations import read_conversations, require_conversations
from rao_kedro.data.quarantine import QuarantineFile
from rao_kedro.models.chat_format import load_chat_format


def collect_conversations(conversations: ConversationFiles, workers: WorkerParameters) -> tuple[Path, Path]:
    """Read conversations.

    Returns:
        Paths of tables of `ConversationTable` and `QuarantineTable`.
    """
    with workers.reserve("conversations") as workspace:
        return read_conversations(conversations, workspace)


def tokenize_turns(
    conversations: Path,
    unreadable_conversations: Path,
    tokenized_groups: Path,
    evaluation_prompts: Path,
    base_model: Path,
    max_conversation_tokens: int,
    num_proc: int,
    workers: WorkerParameters,
) -> tuple[Path, Path, pd.DataFrame]:
    """Tokenise conversations, with what is learned of each.

    Conversations with a prompt of the held-out groups or of the evaluation are quarantined.

    Returns:
        Paths of tables of `TokenizedConversationTable` and `QuarantineTable` (of reading and of tokenising), and the
        report on conversations.

    Raises:
        NoGroupsLeftError: No training conversation is left; says why rows were dropped.
    """
    held_out = read_held_out(tokenized_groups, evaluation_prompts)
    tokenizer = TurnTokenizer(load_chat_format(base_model), max_conversation_tokens, held_out)
    with workers.reserve("tokenizing_conversations") as workspace:
        table = workspace / "tokenized_conversations.parquet"
        with QuarantineFile(workspace / "quarantined_conversations.parquet") as quarantine:
            quarantine.write_table(unreadable_conversations)
            counts = tokenize_conversations(conversations, tokenizer, table, quarantine, num_proc)
    require_conversations({split: of["conversations"] for split, of in counts.of_split.items()}, quarantine)
    return table, quarantine.path, counts.report(quarantine.reasons.counts)
