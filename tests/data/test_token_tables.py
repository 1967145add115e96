"""Tables as workers read them."""

from groups import write_groups

from rao_kedro.data.token_tables import read_groups, read_prompt_groups


def test_rewards_are_told_which_responses_were_cut(tmp_path):
    """In the table's own order; tokens end with the end-of-turn token, which is 2, where a response is finished."""
    path = write_groups(tmp_path / "groups.parquet", 6)
    texts = read_prompt_groups(path)
    assert [group.finished for group in texts].count([True, False, True]) == 2
    for group, text in zip(read_groups(path, None), texts, strict=True):
        chosen, rejected, other = ([*ids][-1] == 2 for ids in group.response_ids)
        assert [rejected, other, chosen] == text.finished
