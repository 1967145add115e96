"""The table of quarantined rows: writing a record never fails, whatever a row holds."""

import math
import pickle

import pandas as pd
import pytest

from rao_kedro.data.quarantine import (
    KEPT,
    NoGroupsLeftError,
    QuarantineFile,
    QuarantineReason,
    ReasonCounts,
    UnusableRow,
    quarantined_row,
    quarantined_table,
)
from rao_kedro.data.tables import QuarantineTable

CIRCLE = {}
CIRCLE["again"] = CIRCLE
DEEP = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ({"a": "b\ud83d"}, "\\ud83d"),
        ({"\udce9": 1}, "\\udce9"),
        ({"a": math.nan, "b": b"\xff"}, "NaN"),
        ({("a", 1): 2}, "('a', 1)"),
        (CIRCLE, "again"),
        ({"a": DEEP}, "[[["),
        ("text \ud83d", "text \\ud83d"),
        ({"a": "x" * 9000}, "xxx"),
    ],
    ids=["surrogate", "surrogate_key", "nan_and_bytes", "tuple_key", "circle", "deep", "text", "long"],
)
def test_any_row_can_be_quarantined_and_saved(tmp_path, row, shown):
    record = quarantined_row("file\ud83d:1", QuarantineReason.UNREADABLE, "detail \ud83d" + "y" * 5000, row)
    table = QuarantineTable.validate(quarantined_table([record]))
    table.to_parquet(tmp_path / "rows.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "rows.parquet"), table)
    assert shown in record["row"] and len(record["row"]) <= 2000 * 6 and len(record["detail"]) < 1000


def test_the_most_frequent_reasons_are_said_with_an_example_each():
    rows = [quarantined_row(f"f:{i}", reason, f"d{i}", {}) for i, reason in enumerate("abbcccd")]
    said = ReasonCounts(rows).most_frequent()
    assert said == (
        "quarantined rows: c 3 times, for example f:3: d3; b 2 times, for example f:1: d1; "
        "a 1 times, for example f:0: d0; and 1 other reasons"
    )
    assert ReasonCounts().most_frequent() == "there were no rows"


def test_a_row_that_lost_a_part_is_counted_and_explains_no_absence(tmp_path):
    with QuarantineFile(tmp_path / "earlier.parquet") as earlier:
        earlier.add("f:1", QuarantineReason.EMPTY_RESPONSE, f"1 of 3 {KEPT}", {})
        earlier.add("f:2", QuarantineReason.EQUAL_RATINGS, "all are 1", {})
    with QuarantineFile(tmp_path / "rows.parquet") as rows:
        rows.write_table(earlier.path)
        rows.add("f:3", QuarantineReason.EQUAL_RATINGS, "all are 2", {})
    assert rows.reasons.counts == {"empty_response": 1, "equal_ratings": 2}
    error = NoGroupsLeftError("none", rows.reasons, rows.path)
    assert str(error) == "none; quarantined rows: equal_ratings 2 times, for example f:2: all are 1"
    table = QuarantineTable.validate(pd.read_parquet(error.quarantined))
    assert list(table["source"]) == ["f:1", "f:2", "f:3"]


def test_the_reason_of_a_row_survives_a_process():
    again = pickle.loads(pickle.dumps(UnusableRow(QuarantineReason.BAD_TYPE, "no list")))
    assert (again.reason, again.detail) == (QuarantineReason.BAD_TYPE, "no list")
