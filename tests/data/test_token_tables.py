"""Tables as workers read them."""

import gc
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from groups import write_groups

from rao_kedro.data import mapped_tables
from rao_kedro.data.mapped_tables import map_table
from rao_kedro.data.token_tables import PromptGroups, read_groups, read_groups_in_table_order, read_reference
from rao_kedro.errors import TrainingError
from rao_kedro.models.packing import TokenizedGroup, pack_groups


@pytest.fixture
def path(tmp_path):
    return write_groups(tmp_path / "groups.parquet", 6)


def test_rewards_are_told_which_responses_were_cut(path):
    """In the table's own order; tokens end with the end-of-turn token, which is 2, where a response is finished."""
    texts = PromptGroups(path)
    assert [group.finished for group in texts].count([True, False, True]) == 2
    for group, text in zip(read_groups(path, None), texts, strict=True):
        chosen, rejected, other = ([*ids][-1] == 2 for ids in group.response_ids)
        assert [rejected, other, chosen] == text.finished


def test_groups_as_text_are_rows_of_the_table(path, monkeypatch):
    monkeypatch.setattr(mapped_tables, "BATCH", 4)  # so that a slice spans two batches
    rows, texts = pq.read_table(path).to_pylist(), PromptGroups(path)
    assert texts.ids == [row["group_id"] for row in rows]
    expected = [(row["group_id"], row["messages"], row["ratings"]) for row in rows]
    for found in ([*texts], texts[:], [texts[i] for i in range(6)], [texts[i] for i in range(-6, 0)]):
        assert [(group.group_id, group.messages, group.ratings) for group in found] == expected
    assert [group.group_id for group in texts[5:0:-2]] == ["g5", "g3", "g1"] and texts[9:] == []


def test_mapped_tokens_are_those_of_the_table_and_pack_as_lists_do(path, monkeypatch):
    monkeypatch.setattr(mapped_tables, "BATCH", 4)
    rows, groups = pq.read_table(path).to_pylist(), read_groups_in_table_order(path)
    plain = [TokenizedGroup(row["group_id"], row["prompt_ids"], row["response_ids"]) for row in rows]
    packed, expected = pack_groups(groups), pack_groups(plain)
    for name in ("input_ids", "response_source", "response_target", "response_segment", "prompt_target", "lengths"):
        assert getattr(packed, name).equal(getattr(expected, name))
    assert packed.input_ids[0].tolist() == [
        token for row in rows for ids in (row["prompt_ids"], *row["response_ids"]) for token in ids
    ]


def test_groups_are_made_when_they_are_asked_for_and_sliced_and_filtered_as_lists(path, monkeypatch):
    monkeypatch.setattr(mapped_tables, "BATCH", 4)  # so that groups lie in two batches
    rows = pq.read_table(path).to_pylist()
    groups = read_groups(path, None, ["rewards", "ratings"])
    names = [row["group_id"] for row in rows]
    assert [group.group_id for group in groups] == names == [groups[i].group_id for i in range(-6, 0)]
    assert [group.group_id for group in groups[4:1:-2]] == names[4:1:-2] and len(groups[9:]) == 0
    assert [group.group_id for group in groups.where(lambda group: group.n_tokens % 2)] == [
        group.group_id for group in groups if group.n_tokens % 2
    ]
    for row, group in zip(rows, groups, strict=True):  # chosen is the third, rejected the first
        assert [ids.tolist() for ids in group.response_ids] == [row["response_ids"][i] for i in (2, 0, 1)]
        assert (group.rewards, group.ratings) == ([1.0, -1.0, 0.0], [1.0, 0.0, 0.5])
        assert group.prompt_ids.tolist() == row["prompt_ids"]
    with pytest.raises(IndexError):
        groups[6]


def test_no_group_stays_in_memory_after_it_was_read(path):
    groups = read_groups(path, None)
    gc.collect()
    before = sum(isinstance(one, np.ndarray) for one in gc.get_objects())
    for _ in range(3):
        assert sum(group.n_tokens for group in groups) > 0
    gc.collect()
    assert sum(isinstance(one, np.ndarray) for one in gc.get_objects()) <= before


def test_reference_log_probs_are_found_by_the_id_of_their_group(path, tmp_path):
    names = [row["group_id"] for row in pq.read_table(path).to_pylist()]
    rows = [
        {"group_id": n, "prompt_logp": -float(i), "response_logps": [-1.0, -2.0, -3.0]} for i, n in enumerate(names)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "reference.parquet")
    reference = read_reference(tmp_path / "reference.parquet", path)
    assert [reference[name] for name in names] == [(-float(i), [-3.0, -1.0, -2.0]) for i in range(6)]
    assert len(reference) == 6 and "other" not in reference and names[3] in reference
    for wrong in (rows[:5], rows[::-1], [{**row, "response_logps": [-1.0]} for row in rows]):
        pq.write_table(pa.Table.from_pylist(wrong), tmp_path / "reference.parquet")
        with pytest.raises(TrainingError, match="has no matching row"):
            read_reference(tmp_path / "reference.parquet", path)


def test_reading_a_table_allocates_less_than_a_byte_a_token(tmp_path):
    """Lists of ints took 89. What is allocated is an object for each row and response, none for tokens."""
    n_groups, n_tokens = 1500, 2000
    ids = np.arange(n_tokens)
    rows = {
        "group_id": [f"g{i}" for i in range(n_groups)],
        "split": ["train"] * n_groups,
        "prompt_ids": [ids[: n_tokens // 2]] * n_groups,
        "response_ids": [[ids[: n_tokens // 4]] * 2] * n_groups,
        "chosen": [0] * n_groups,
        "rejected": [1] * n_groups,
    }
    pq.write_table(pa.table(rows), path := tmp_path / "groups.parquet")
    map_table(path)
    arrow = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        groups = read_groups(path, "train")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(group.n_tokens for group in groups) == n_groups * n_tokens
    assert peak + pa.total_allocated_bytes() - arrow < n_groups * n_tokens


def test_readers_that_start_together_write_one_file_and_a_changed_table_another(path, monkeypatch):
    read, reads = mapped_tables._read, []
    monkeypatch.setattr(mapped_tables, "_read", lambda *of: (reads.append(of), read(*of))[1])
    with ThreadPoolExecutor(8) as pool:
        tables = [*pool.map(map_table, [path] * 16)]
    assert len(reads) == 1 and all(table.equals(tables[0]) for table in tables)
    (old,) = path.parent.glob(".*.arrow")
    rows = pq.read_table(path).to_pylist()
    rows[0]["prompt_ids"][0] += 1
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert map_table(path)["prompt_ids"][0].as_py() == rows[0]["prompt_ids"]
    assert tables[0]["prompt_ids"][0].as_py()[0] == rows[0]["prompt_ids"][0] - 1  # what is mapped stays
    (new,) = path.parent.glob(".*.arrow")
    assert new != old


def test_where_no_file_can_be_written_a_table_is_read_all_the_same(path, monkeypatch, caplog):
    expected = map_table(path)
    monkeypatch.setattr(mapped_tables, "_write_once", lambda *of: (_ for _ in ()).throw(PermissionError("read-only")))
    assert map_table(path).equals(expected)
    assert "could not be written" in caplog.text
