"""Responses of several turns in references, training and rewards: what the user writes in them has no log-prob."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from groups import alignment_spec, log_of, parameters, reference
from launching import IN_PROCESS
from transformers import AutoModelForCausalLM

from rao_kedro.config.data_engineering import PreferenceFiles
from rao_kedro.data.groups import read_preferences
from rao_kedro.data.token_tables import PromptGroups
from rao_kedro.data.tokenize import GroupTokenizer, TokenLimits
from rao_kedro.data.tokenized_tables import write_tokenized
from rao_kedro.models.chat_format import load_chat_format
from rao_kedro.models.packing import TokenizedGroup
from rao_kedro.rewards import PromptGroup, make_reward
from rao_kedro.scoring.reference_cache import scoring_key
from rao_kedro.training.tasks.kto import mismatch_pairs
from rao_kedro.workers import launch


def turns(*texts):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


@pytest.fixture
def groups_path(tmp_path, tiny_checkpoint):
    """Tokenised pairs of dialogues, with rewards: half of them part after the first message of the user."""
    for name, n in (("train", 8), ("test", 4)):
        rows = []
        for i in range(n):
            first = f"the {name} fox {i}"
            chosen, rejected = turns(first, "a dog?", "no no", f"jumps {i}"), turns(first, "what", "the dog", "over")
            rows.append({"chosen": chosen, "rejected": rejected if i % 2 else [*chosen[:3], rejected[3]]})
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = {"assistant_turns": "all"}
    files = {name: source | {"path": str(tmp_path / f"{name}.jsonl")} for name in ("train", "test")}
    preferences, _ = read_preferences(PreferenceFiles(**files), tmp_path)
    tokenizer = GroupTokenizer(load_chat_format(tiny_checkpoint), TokenLimits(100, 100), "best_vs_random", 0)
    write_tokenized(preferences, path := tmp_path / "groups.parquet", tokenizer)
    table = pq.read_table(path)
    splits = pa.array(["validation" if split == "test" else split for split in table["split"].to_pylist()])
    table = table.set_column(table.column_names.index("split"), "split", splits)
    pq.write_table(table.append_column("rewards", table["ratings"]), path)
    return path


def plain_logps(model, row):
    """The log-prob of each response of a row: of what the assistant writes, each dialogue computed alone."""
    logps = []
    for ids, learned in zip(row["response_ids"], row["learned"] or [None, None], strict=True):
        whole = torch.tensor([[*row["prompt_ids"], *ids]])
        mask = torch.tensor([False] * len(row["prompt_ids"]) + list(learned or [True] * len(ids)))
        with torch.no_grad():
            of_tokens = model(input_ids=whole).logits[0, :-1].log_softmax(-1).gather(1, whole[0, 1:, None])[:, 0]
        logps.append(float(of_tokens[mask[1:]].sum()))
    return logps


def test_references_are_those_of_plain_rows_without_the_users_tokens(tmp_path, tiny_checkpoint, groups_path):
    rows = pq.read_table(groups_path).to_pylist()
    assert sum(row["learned"] is not None for row in rows) == len(rows) // 2
    assert all(0 < sum(mask) < len(mask) for row in rows for mask in row["learned"] or [])
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    found = pq.read_table(reference(tmp_path, tiny_checkpoint, groups_path))["response_logps"].to_pylist()
    for row, logps in zip(rows, found, strict=True):
        assert logps == pytest.approx(plain_logps(model, row), abs=1e-3)


@pytest.mark.parametrize("name", ["rao", "dpo", "simpo", "kto"])
def test_training_starts_at_the_reference_and_learns(tmp_path, tiny_checkpoint, groups_path, name):
    """Training stops if a log-ratio is not 0 before the first update, as it were with the user's tokens in one part."""
    reference(tmp_path, tiny_checkpoint, groups_path)
    training = parameters(epochs=6, batch_size=8, max_tokens_per_batch=200, keep="last")
    spec = alignment_spec(tmp_path, tiny_checkpoint, groups_path, name, training)
    launch(spec, IN_PROCESS)
    steps, _ = log_of(spec.workspace)
    assert steps[-1]["loss"] < steps[0]["loss"]


def test_mismatched_pairs_of_kto_keep_which_tokens_are_learned():
    groups = [TokenizedGroup(n, [1], [[2, 3], [4]], learned=[[True, False], [True]]) for n in "ab"]
    pairs = mismatch_pairs([*groups, TokenizedGroup("c", [1], [[5], [6]])])
    assert [(list(pair.response_ids), pair.learned) for pair in pairs] == [
        ([[2, 3]], [[True, False]]),
        ([[6]], None),
        ([[2, 3]], [[True, False]]),
    ]


def test_references_of_other_masks_are_stale(tiny_checkpoint, groups_path):
    key = scoring_key(tiny_checkpoint, groups_path, "no", 1)
    table = pq.read_table(groups_path)
    one_turn = groups_path.with_name("one_turn.parquet")
    pq.write_table(table.drop_columns(["learned"]), one_turn)
    assert scoring_key(tiny_checkpoint, one_turn, "no", 1) != key
    flipped = [None if of is None else [[True] * len(mask) for mask in of] for of in table["learned"].to_pylist()]
    at = table.column_names.index("learned")
    pq.write_table(table.set_column(at, "learned", pa.array(flipped, table.schema.field(at).type)), one_turn)
    assert scoring_key(tiny_checkpoint, one_turn, "no", 1) != key


@pytest.mark.parametrize("read_at", ["template_end", "end_of_turn"])
def test_a_reward_model_reads_the_whole_dialogue(tiny_reward_model, groups_path, read_at):
    reward = make_reward("bradley_terry", model_dir=tiny_reward_model, mixed_precision="no", read_at=read_at)
    groups = [group for group in PromptGroups(groups_path) if group.earlier_turns]
    alone = [
        PromptGroup(f"{i}", group.before(i), [response], finished=[True])
        for group in groups
        for i, response in enumerate(group.responses)
    ]
    expected = [score for (score,) in reward.score(alone)]
    assert [score for of in reward.score(groups) for score in of] == pytest.approx(expected, abs=1e-5)


def test_an_implicit_reward_leaves_out_the_users_tokens(tmp_path, tiny_checkpoint, groups_path):
    reference(tmp_path, tiny_checkpoint, groups_path)
    training = parameters(epochs=2, max_tokens_per_batch=200, keep="last")
    spec = alignment_spec(tmp_path, tiny_checkpoint, groups_path, "dpo", training)
    launch(spec, IN_PROCESS)
    policy = spec.workspace / "model"
    reward = make_reward("implicit", policy_dir=policy, reference_dir=tiny_checkpoint, beta=0.5, mixed_precision="no")
    rows = pq.read_table(groups_path).to_pylist()
    models = [AutoModelForCausalLM.from_pretrained(directory) for directory in (policy, tiny_checkpoint)]
    found = reward.score(list(PromptGroups(groups_path)))
    for row, scores in zip(rows, found, strict=True):
        ours, theirs = (plain_logps(model, row) for model in models)
        assert scores == pytest.approx([0.5 * (a - b) for a, b in zip(ours, theirs, strict=True)], abs=1e-3)


def test_a_function_and_a_judge_see_the_dialogue_before_the_last_turn(groups_path):
    reward = make_reward("rules", function=f"{__name__}:count_messages")
    groups = [group for group in PromptGroups(groups_path) if group.earlier_turns]
    assert reward.score(groups[:1]) == [[3.0, 3.0]]
    judge = make_reward("generative", model="judge", base_url="http://localhost:1/v1")
    (asked, _) = judge._dialogues(groups[:1])
    assert "[assistant]\na dog?\n[user]\nno no\n" in asked[0]["content"]


def count_messages(messages, response):
    return len(messages)
