"""Tables that are written and read in batches, as data frames of tests."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import NamedTuple

import pandas as pd

from rao_kedro.data import groups, tokenized_tables
from rao_kedro.data.arrow_schemas import PREFERENCE_GROUPS
from rao_kedro.data.quarantine import QuarantineFile
from rao_kedro.data.report import DataReport
from rao_kedro.data.splits import EvaluationPrompts
from rao_kedro.data.table_files import TableWriter, count_values, read_rows
from rao_kedro.data.tokenize import GroupTokenizer
from rao_kedro.data.tokenized_tables import divided_batches, write_groups, write_tokenized


@cache
def directory_of_this_process():
    return TemporaryDirectory(prefix="rao_kedro_tables_")


def temporary():
    """A new directory that goes with this process."""
    return Path(mkdtemp(dir=directory_of_this_process().name))


def frame(path):
    """A table whose lists are lists, as those of a frame that was never saved."""
    with_columns = pd.read_parquet(path)
    return pd.DataFrame(read_rows(path), columns=with_columns.columns).astype(with_columns.dtypes.to_dict())


def read_preferences(files):
    """The groups and the quarantined rows of sources."""
    return tuple(map(frame, groups.read_preferences(files, temporary())))


def write_preferences(table, path):
    with TableWriter(path, PREFERENCE_GROUPS) as writer:
        for row in table.to_dict("records"):
            writer.write({"rated_by": "score", "earlier_turns": None, **row})
    return path


class Divided(NamedTuple):
    """What the node `tokenize` makes of a table of preference groups."""

    groups: pd.DataFrame
    prompts: pd.DataFrame
    quarantined: pd.DataFrame
    report: pd.DataFrame


def divided_groups(table, chat, limits, n_test_prompts, n_prompts=10):
    directory, report, reported = temporary(), DataReport(), EvaluationPrompts(n_prompts)
    source = write_preferences(table, directory / "preference_groups.parquet")
    with QuarantineFile(directory / "quarantined.parquet") as quarantine:
        tokenizer = GroupTokenizer(chat, limits, "best_vs_random", 0)
        parts = tokenized_tables.tokenize_groups(source, directory, tokenizer, quarantine)
        batches = divided_batches(parts, n_test_prompts, quarantine)
        for batch in write_groups(directory / "groups.parquet", batches):
            report.take(batch)
            reported.take(batch)
    read = count_values(source, ["split", "rated_by"])
    lines = report.table(read, quarantine.reasons, len(reported.table()), chat.tokenizer, limits.t0_length)
    return Divided(frame(directory / "groups.parquet"), reported.table(), frame(quarantine.path), lines)


def tokenize_groups(table, chat, limits, pairing, seed):
    """The tokenised groups and the quarantined rows of a table of preference groups."""
    directory = temporary()
    tokenizer = GroupTokenizer(chat, limits, pairing, seed)
    source = write_preferences(table, directory / "preference_groups.parquet")
    quarantined = write_tokenized(source, directory / "tokenized_groups.parquet", tokenizer)
    return frame(directory / "tokenized_groups.parquet"), frame(quarantined)


def groups_table(n, held_out=0.2):
    """Preference groups of two responses, training groups first."""
    n_train = round(n * (1 - held_out))
    return pd.DataFrame(
        {
            "group_id": f"g{i}",
            "split": "train" if i < n_train else "test",
            "messages": [{"role": "user", "content": f"the fox {i}"}],
            "responses": ["a dog", f"jumps {i}"],
            "ratings": [1.0, 0.0],
            "finished": [True, True],
            "source": f"file:{i}",
            "requirements": "[]",
        }
        for i in range(n)
    )
