"""Memory does not grow with the rows: tests count what is alive while many rows pass."""

import json

import pytest
from data_tables import groups_table, write_preferences

from rao_kedro.config.data_engineering import PreferenceFiles, PreferenceSource
from rao_kedro.data.groups import read_preferences
from rao_kedro.data.quarantine import QuarantineFile
from rao_kedro.data.readers import RawRow
from rao_kedro.data.table_files import count_rows
from rao_kedro.data.tokenize import GroupTokenizer, TokenizedBatch, TokenLimits
from rao_kedro.data.tokenized_tables import BATCH, divided_batches, tokenize_groups, write_groups
from rao_kedro.models.chat_format import load_chat_format

N = 1200


class Counted:
    """Counts the objects of a class that are alive."""

    def __init__(self, monkeypatch, kind):
        self.now = self.most = self.all = 0

        made = kind.__init__

        def count():
            self.now, self.all = self.now + 1, self.all + 1
            self.most = max(self.most, self.now)

        def init(one, *arguments, **named):
            made(one, *arguments, **named)
            count()

        def set_state(one, state):  # of a copy that was on disk
            one.__dict__.update(state)
            count()

        def gone(one):
            self.now -= 1

        monkeypatch.setattr(kind, "__init__", init)
        monkeypatch.setattr(kind, "__setstate__", set_state, raising=False)
        monkeypatch.setattr(kind, "__del__", gone, raising=False)


def source(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return PreferenceSource(path=str(path))


def pairs(n):
    return [{"prompt": f"p{i}", "chosen": "a", "rejected": "b"} for i in range(n)]


def scattered(n):
    """The second response to each prompt stands far from the first."""
    rows = [{"prompt": f"p{i}", "completion": "a", "label": True} for i in range(n)]
    return rows + [{**row, "completion": "b", "label": False} for row in rows]


def one_after_the_other(n):
    return [{"prompt": f"p{i // 2}", "response": "ab"[i % 2], "helpfulness": i % 2} for i in range(2 * n)]


@pytest.mark.parametrize("rows", [pairs, scattered, one_after_the_other])
def test_few_rows_are_alive_while_groups_are_read(tmp_path, monkeypatch, rows):
    files = PreferenceFiles(train=source(tmp_path / "a.jsonl", rows(N)), test=source(tmp_path / "b.jsonl", pairs(2)))
    counted = Counted(monkeypatch, RawRow)
    table, _ = read_preferences(files, tmp_path)
    assert count_rows(table) == N and counted.all >= N and counted.most <= 6


def test_few_batches_are_alive_while_groups_are_tokenised_and_divided(tmp_path, tiny_checkpoint, monkeypatch):
    table = write_preferences(groups_table(N), tmp_path / "groups.parquet")
    tokenizer = GroupTokenizer(load_chat_format(tiny_checkpoint), TokenLimits(64, 64), "best_vs_random", 0)
    counted = Counted(monkeypatch, TokenizedBatch)
    with QuarantineFile(tmp_path / "quarantined.parquet") as quarantine:
        parts = tokenize_groups(table, tmp_path, tokenizer, quarantine)
        batches = write_groups(tmp_path / "tokenized.parquet", divided_batches(parts, 10, quarantine))
        rows = sum(batch.num_rows for batch in batches)
    assert rows == N and counted.all >= N / BATCH and counted.most <= 2
