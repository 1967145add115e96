"""Which prompts a round takes, and the groups of what is sampled for them."""

from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rao_kedro.data.rounds import choose_prompts, write_prompts, write_sampled_groups
from rao_kedro.errors import DataError


@pytest.fixture
def annotated(tmp_path):
    """Ten training groups and two of validation."""
    rows = [
        {
            "group_id": f"g{i}",
            "split": "train" if i < 10 else "validation",
            "messages": [{"role": "user", "content": f"question {i}"}],
            "requirements": "[]",
            "prompt_ids": [1, i],
        }
        for i in range(12)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "annotated.parquet")
    return tmp_path / "annotated.parquet"


@pytest.mark.parametrize("per_round", [1, 3, 4, 7, 10])
def test_rounds_take_every_training_prompt_in_turn_and_none_twice_in_a_round(annotated, per_round):
    counts = Counter()
    for k in range(1, 12):
        prompts = choose_prompts(annotated, k, per_round, 0.0, seed=0)
        assert len(prompts.sampled) == per_round and not prompts.offline
        counts.update(prompts.sampled)
        taken = [counts[f"g{i}"] for i in range(10)]
        assert max(taken) - min(taken) <= 2  # a prompt that waits comes first in the next pass
    assert set(counts) == {f"g{i}" for i in range(10)}


def test_the_prompts_of_a_round_depend_on_the_seed_and_not_on_other_rounds(annotated):
    first = [choose_prompts(annotated, k, 4, 0.0, seed=0) for k in (1, 2, 3)]
    assert [choose_prompts(annotated, k, 4, 0.0, seed=0) for k in (3, 1)] == [first[2], first[0]]
    assert choose_prompts(annotated, 1, 4, 0.0, seed=1) != first[0]


def test_a_share_of_a_rounds_prompts_keeps_the_responses_of_the_data(annotated):
    prompts = choose_prompts(annotated, 1, 8, 0.25, seed=0)
    assert (len(prompts.sampled), len(prompts.offline)) == (6, 2) and not prompts.sampled & prompts.offline
    assert len(choose_prompts(annotated, 1, 3, 0.9, seed=0).sampled) == 1  # never none
    assert choose_prompts(annotated, 1, None, 0.5, seed=0).sampled | choose_prompts(
        annotated, 1, None, 0.5, seed=0
    ).offline == {f"g{i}" for i in range(10)}


def test_more_prompts_than_there_are_are_refused(annotated):
    with pytest.raises(DataError, match=r"rounds.prompts_per_round is 11, and there are 10 training prompts: lower it"):
        choose_prompts(annotated, 1, 11, 0.0, seed=0)


def generations(path, prompts, **changes):
    rows = [
        {"prompt_id": name, "response": f"answer {i}", "response_ids": [20 + i, *end], "prompt_ids": [1, int(name[1:])]}
        | changes
        for name in prompts
        for i, end in enumerate(([2], [], [2]))
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_sampled_groups_hold_the_tokens_as_they_were_sampled(annotated, tmp_path):
    write_prompts(annotated, ("group_id", {"g7", "g3"}), tmp_path / "prompts.parquet")
    prompts = pq.read_table(tmp_path / "prompts.parquet").to_pylist()
    assert [row["prompt_id"] for row in prompts] == ["g3", "g7"]  # the order of the table
    assert prompts[0]["messages"] == [{"role": "user", "content": "question 3"}]
    written = generations(tmp_path / "generations.parquet", ["g3", "g7"])
    write_sampled_groups(annotated, {"g7", "g3"}, written, {2}, tmp_path / "groups.parquet")
    first, second = pq.read_table(tmp_path / "groups.parquet").to_pylist()
    assert (first["group_id"], second["group_id"]) == ("g3", "g7")
    assert first["prompt_ids"] == [1, 3] and first["split"] == "train" and first["ratings"] is None
    assert first["response_ids"] == [[20, 2], [21], [22, 2]] and first["finished"] == [True, False, True]


@pytest.mark.parametrize(
    ("prompts", "changes"), [(["g3"], {}), (["g3", "g6"], {}), (["g3", "g7"], {"prompt_ids": [9, 9]})]
)
def test_responses_to_other_prompts_are_refused(annotated, tmp_path, prompts, changes):
    written = generations(tmp_path / "generations.parquet", prompts, **changes)
    with pytest.raises(DataError, match="the responses are not those to the prompt of group g"):
        write_sampled_groups(annotated, {"g7", "g3"}, written, {2}, tmp_path / "groups.parquet")
