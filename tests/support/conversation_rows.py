"""Tokenised conversations that the tests of training share."""

import random

from rao_kedro.data.arrow_schemas import TOKENIZED_CONVERSATIONS
from rao_kedro.data.table_files import TableWriter


def conversation_rows(n):
    """Conversations of one to three turns of the assistant, of different lengths; 2 ends a turn."""
    rng = random.Random(0)
    rows = []
    for i in range(n):
        ids, learned = [1], [False]
        for _ in range(turns := 1 + i % 3):
            asked, answered = ([rng.randrange(10, 250) for _ in range(rng.randrange(1, 5))] for _ in range(2))
            ids += [*asked, 3, *answered, 2]
            learned += [False] * (len(asked) + 1) + [True] * (len(answered) + 1)
        split = "train" if i < n * 2 // 3 else "validation"
        about = {"conversation_id": f"c{i}", "split": split, "turns": turns, "cut_turns": 0}
        rows.append(about | {"ids": ids, "learned": learned})
    return rows


def write_conversations(path, n):
    with TableWriter(path, TOKENIZED_CONVERSATIONS) as writer:
        writer.write_rows(conversation_rows(n))
    return path
