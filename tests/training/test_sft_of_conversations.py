"""SFT learns the assistant's turns of conversations: the loss is that of plain rows whose other labels are -100."""

import pytest
import torch
from conversation_rows import conversation_rows, write_conversations
from groups import log_of, parameters
from launching import IN_PROCESS
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rao_kedro.config.specs import TrainingSpec
from rao_kedro.data.token_tables import read_tokenized_conversations
from rao_kedro.models.packing import TokenizedGroup, pack_groups
from rao_kedro.training.tasks.sft import SupervisedFinetuning
from rao_kedro.workers import launch


@pytest.fixture
def path(tmp_path):
    return write_conversations(tmp_path / "conversations.parquet", 12)


def spec_of(tmp_path, tiny_checkpoint, path, name="sft", **training):
    training = {"epochs": 1, "batch_size": 8, "max_tokens_per_batch": 200} | training
    return TrainingSpec(
        workspace=tmp_path / name,
        model_dir=tiny_checkpoint,
        groups_path=path,
        t0_length=5,  # longer than the beginnings of conversations, which need no t_0
        training=parameters(**training),
    )


def plain_loss(model, rows):
    """The token mean over all rows, each computed alone by transformers."""
    total, n = torch.zeros(()), 0
    for row in rows:
        ids = torch.tensor([row["ids"]])
        labels = torch.where(torch.tensor([row["learned"]]), ids, -100)
        k = int((labels[:, 1:] != -100).sum())
        total, n = total + model(input_ids=ids, labels=labels).loss * k, n + k
    return total / n


@pytest.mark.parametrize("one_by_one", [False, True], ids=["packed", "one by one"])
def test_the_loss_and_its_gradient_are_those_of_plain_rows(tmp_path, tiny_checkpoint, path, one_by_one):
    task = SupervisedFinetuning(spec_of(tmp_path, tiny_checkpoint, path))
    rows = [row for row in conversation_rows(12) if row["split"] == "train"]
    module, groups = task.load(), task.train_groups
    for pack in [[group] for group in groups] if one_by_one else [groups]:
        loss = task.loss(task.compute(module, pack, torch.device("cpu")), pack).loss
        (loss * task.count_units(pack) / task.count_units(groups)).backward()
    plain = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    expected = plain_loss(plain, rows)
    expected.backward()
    if not one_by_one:
        torch.testing.assert_close(loss, expected)
    gradients = {name.removeprefix("model."): p.grad for name, p in module.named_parameters()}
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_the_loop_trains_the_same_weights_however_conversations_are_packed(tmp_path, tiny_checkpoint, path):
    """The longest conversation fills a small pack alone; a step is a mean over its tokens, whatever the packs."""
    longest = max(len(row["ids"]) for row in conversation_rows(12))
    found = []
    for room in (longest, 500):
        spec = spec_of(tmp_path, tiny_checkpoint, path, f"sft_{room}", max_tokens_per_batch=room, epochs=2)
        launch(spec, IN_PROCESS)
        found.append((log_of(spec.workspace), load_file(spec.workspace / "model" / "model.safetensors")))
    (steps, evaluations), _ = found[0]
    rows = conversation_rows(12)
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
        losses = [plain_loss(model, [row for row in rows if row["split"] == of]) for of in ("train", "validation")]
    assert [steps[0]["loss"], evaluations[0]["eval_loss"]] == pytest.approx([loss.item() for loss in losses], rel=1e-4)
    for step, other in zip(steps, found[1][0][0], strict=True):
        assert step["loss"] == pytest.approx(other["loss"], rel=1e-4)
    for name, weight in found[0][1].items():
        torch.testing.assert_close(weight, found[1][1][name], rtol=1e-3, atol=1e-5)


def test_conversations_of_a_pack_do_not_see_each_other(tiny_checkpoint, path, tmp_path):
    """The log-probs of a conversation are the same beside any other one."""
    task = SupervisedFinetuning(spec_of(tmp_path, tiny_checkpoint, path))
    module = task.load().eval()
    first, second, third = task.train_groups[:3]
    with torch.no_grad():
        beside = [task.compute(module, pack, torch.device("cpu"))[0][0] for pack in ([first, second], [first, third])]
    torch.testing.assert_close(*beside)


def test_a_table_is_read_as_prompts_and_masked_continuations(path):
    groups = read_tokenized_conversations(path, "train")
    rows = [row for row in conversation_rows(12) if row["split"] == "train"]
    assert len(groups) == len(rows)
    for group, row in zip(groups, rows, strict=True):
        assert [*group.prompt_ids, *group.response_ids[0]] == row["ids"]
        assert [False] * len(group.prompt_ids) + list(group.learned[0]) == row["learned"]
        assert group.learned[0][0] and group.response_lengths == [sum(row["learned"])]


def test_a_mask_leaves_out_log_probs_and_nothing_else():
    """A mask of ones is no mask; pieces of a long group keep their masks."""
    whole = TokenizedGroup("a", [1, 10, 11], [[20, 21, 2], [30, 2]])
    masked = TokenizedGroup("a", [1, 10, 11], [[20, 21, 2], [30, 2]], learned=[[True] * 3, [True] * 2])
    for name, value in vars(pack_groups([whole])).items():
        other = getattr(pack_groups([masked]), name)
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
    some = TokenizedGroup("a", [1, 10, 11], [[20, 21, 2], [30, 2]], learned=[[True, False, True], [False, True]])
    pack = pack_groups([some])
    assert pack.response_target.tolist() == [20, 2, 2]
    assert pack.response_source.tolist() == [2, 4, 6]
    assert pack.lengths.tolist() == [[2, 1]]
    assert [piece.learned for piece in some.split(6)] == [[[True, False, True]], [[False, True]]]
