"""The table of quarantined rows: writing a record never fails, whatever a row holds."""

import math

import pandas as pd
import pytest

from rao_kedro.data.quarantine import (
    NoGroupsLeftError,
    QuarantineReason,
    most_frequent_reasons,
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
    said = most_frequent_reasons(quarantined_table(rows))
    assert said == (
        "quarantined rows: c 3 times, for example f:3: d3; b 2 times, for example f:1: d1; "
        "a 1 times, for example f:0: d0; and 1 other reasons"
    )
    assert most_frequent_reasons(quarantined_table([])) == "there were no rows"
    earlier = quarantined_table([quarantined_row("g:1", "a", "d", {})])
    error = NoGroupsLeftError("none", quarantined_table(rows)).with_earlier(earlier)
    assert list(error.quarantined["source"])[:2] == ["g:1", "f:0"] and str(error).startswith(
        "none; quarantined rows: c"
    )
