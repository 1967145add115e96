"""A group that is longer than a pack is split by response: the loss and gradient are those of one pack.

That every objective trains alike is in `test_trajectories.py`; here are the parts.
"""

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from rao_kedro.errors import TrainingError
from rao_kedro.models.packing import TokenizedGroup, response_lengths
from rao_kedro.scoring.forward import join_pieces, piece_key
from rao_kedro.scoring.packs import fill_packs
from rao_kedro.training.passes import Passes
from rao_kedro.training.task import LossOutput, Task


def group(name, prompt, *lengths):
    return TokenizedGroup(name, list(range(prompt)), [[10 + i] * n for i, n in enumerate(lengths)])


def test_pieces_hold_every_response_once_in_order_and_fit():
    long = group("a", 4, 3, 2, 9, 1, 1, 5)
    pieces = long.split(10)
    assert [len(piece.response_ids) for piece in pieces] == [2, 1, 2, 1]
    assert [piece.first_response for piece in pieces] == [0, 2, 3, 5]
    assert [ids for piece in pieces for ids in piece.response_ids] == long.response_ids
    assert [piece.n_tokens for piece in pieces] == [9, 13, 6, 9]  # the second response alone is too long
    assert [piece.response_ids for piece in group("b", 4, 3).split(10)] == [group("b", 4, 3).response_ids]


def test_packs_of_pieces_leave_short_groups_whole_and_refuse_a_row_that_is_too_long():
    packs = fill_packs([group("long", 4, 3, 2, 6, 1), group("short", 2, 3, 4)], 10)
    assert all(sum(piece.n_tokens for piece in pack) <= 10 for pack in packs)
    keys = {piece_key(piece) for pack in packs for piece in pack}
    assert keys == {("long", 0), ("long", 2), ("long", 3), ("short", 0)}
    with pytest.raises(TrainingError, match=r"prompt of group long and one of its responses have 13 tokens"):
        fill_packs([group("long", 4, 3, 9)], 10)


def test_values_of_pieces_are_joined_in_the_order_of_the_responses():
    shares = [{("b", 0): [5]}, {("a", 2): [2, 3], ("a", 10): [4]}, {("a", 0): [0, 1]}]
    joined = join_pieces(shares, [group("b", 1, 1), group("a", 1, *[1] * 11)])
    assert joined == {"b": [5], "a": [0, 1, 2, 3, 4]} and list(joined) == ["b", "a"]


class Coupled(Task):
    """Values of prompts, responses and response tokens, and a loss that multiplies all of a group."""

    def __init__(self):
        self.computed = []

    def load(self):
        raise NotImplementedError

    def save(self, module, weights, directory):
        raise NotImplementedError

    def count_units(self, groups):
        return float(len(groups))

    def compute(self, module, pack, device):
        lengths = response_lengths(pack)
        exists = torch.arange(int(lengths.max())) < lengths[..., None]
        tokens = torch.zeros(exists.shape, dtype=torch.float64)
        for row, piece in enumerate(pack):
            for column, ids in enumerate(piece.response_ids):
                tokens[row, column, : len(ids)] = torch.tensor(ids) / 100.0
        of_tokens = module(tokens[..., None])[..., 0] * exists
        prompts = module(torch.tensor([[len(piece.prompt_ids)] for piece in pack], dtype=torch.float64))[:, 0]
        self.computed.append(of_tokens.detach())
        return prompts, of_tokens.sum(2), of_tokens

    def loss(self, outputs, groups):
        prompts, responses, tokens = outputs
        loss = (prompts * responses.sum(1).square() * tokens.square().sum((1, 2))).mean()
        return LossOutput(loss, {"prompts": prompts.detach().mean()})


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_loss_that_couples_all_responses_has_the_gradient_of_one_pack(dropout):
    """With dropout, both passes over a piece draw the same masks: otherwise the derivatives belong to other outputs."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1)).double()
    groups = [group("a", 3, 2, 5, 1, 4, 3), group("b", 2, 1, 2), group("c", 4, 6, 1, 1)]
    gradients, metrics = [], []
    for room in (100, 10, 12):
        module.zero_grad()
        task = Coupled()
        metrics.append(Passes(task, Accelerator(cpu=True), module.train(), room).forward_backward(groups, 0.5))
        gradients.append([parameter.grad.clone() for parameter in module.parameters()])
        if room < 100:
            n = len(fill_packs([g for g in groups if g.n_tokens > room], room))
            for first, second in zip(task.computed[:n], task.computed[-n:], strict=True):
                torch.testing.assert_close(first, second, rtol=0, atol=0)
    if dropout:
        return
    for found, measured in zip(gradients[1:], metrics[1:], strict=True):
        assert measured == pytest.approx(metrics[0], rel=1e-5)
        for one, other in zip(found, gradients[0], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_64_responses_of_2048_tokens_train_in_packs_of_8192_as_in_one():
    module = nn.Linear(1, 1).double()
    groups = [group("k64", 64, *[2048] * 64)]
    gradients = []
    for room in (64 * 2048 + 64, 8192):
        module.zero_grad()
        task = Coupled()
        loss = Passes(task, Accelerator(cpu=True), module, room).forward_backward(groups, 0.0)["loss"]
        gradients.append((loss, module.weight.grad.item(), module.bias.grad.item()))
    assert len(task.computed) == 2 * 22  # three responses a pack, in two passes
    assert gradients[1] == pytest.approx(gradients[0], rel=1e-4)
