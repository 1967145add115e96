"""A row's own columns under the names that formats know."""

import pytest
from preference_rows import USER, read_train_rows

from rao_kedro.config.data_engineering import PreferenceSource
from rao_kedro.data.columns import rename_columns
from rao_kedro.data.formats import FORMATS, sniff
from rao_kedro.data.quarantine import UnusableRow


def test_columns_are_renamed_nested_or_left_out():
    row = {"question": "Hi?", "outputs": {"good": "a", "bad": "b"}, "system": "me", "prompt": 7}
    columns = {"prompt": "question", "chosen": "outputs.good", "rejected": "outputs.bad", "system": None}
    renamed = rename_columns(row, columns)
    assert renamed["prompt"] == "Hi?" and "system" not in renamed and "question" not in renamed
    assert FORMATS[sniff(renamed)].read(renamed).responses == ["a", "b"]
    with pytest.raises(UnusableRow, match="no column answer, which `columns` maps to chosen; the row has question"):
        rename_columns(row, {"chosen": "answer"})


@pytest.mark.parametrize(
    ("row", "known", "right"),
    [
        ({"prompt": "Hi?", "responses": ["a", "b"], "human_rank": [1, 2], "scores": [1, 2]}, "ratings", "ranks"),
        ({"prompt": "Hi?", "response": "a", "human_rank": 1, "score": 3}, "rating", "rank"),
    ],
)
def test_ranks_that_are_named_as_ratings_are_refused_and_read_under_their_own_name(row, known, right):
    with pytest.raises(UnusableRow, match=f"bad_rating: .*highest is best: write `{right}: human_rank`"):
        rename_columns(row, {known: "human_rank"})
    renamed = rename_columns(row, PreferenceSource(path="x", columns={right: "human_rank"}).columns)
    assert FORMATS[sniff(renamed)].read(renamed).ratings[0] == -1


def test_an_unknown_target_of_a_column_is_refused():
    with pytest.raises(ValueError, match=r"columns\.choosen"):
        PreferenceSource(path="x", columns={"choosen": "a"})


def test_a_mapping_reads_any_columns_and_counts_rows_without_them(tmp_path):
    rows = [{"question": "Hi?", "answer_a": "a", "answer_b": "b", "cut": [True, False]}, {"question": "Yo?"}]
    columns = {"prompt": "question", "chosen": "answer_a", "rejected": "answer_b", "truncated": "cut"}
    found, quarantined = read_train_rows(tmp_path, rows, columns=columns)
    assert found["messages"].item() == USER and found["finished"].item() == [False, True]
    assert quarantined == [("train.jsonl:2", "missing_column")]
