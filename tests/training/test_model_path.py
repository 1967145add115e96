"""Objectives through the real model path, in float64: a tiny model, and the real 135M one."""

from dataclasses import replace

import pytest
import torch

from rao_kedro.models.loading import load_causal_lm
from rao_kedro.models.logprobs import LogProbModel
from rao_kedro.models.packing import TokenizedGroup, pack_groups
from rao_kedro.objectives import LogProbBatch, make_objective

GROUPS = [
    TokenizedGroup("a", [1, 40, 41, 42], [[50, 51, 2], [60, 2], [70, 71, 72, 2], [80, 2]], [0.9, -0.4, 0.2, 0.1]),
    TokenizedGroup("b", [1, 90, 91], [[100, 2], [110, 111, 2]], [0.5, -0.5]),
]


@pytest.fixture(scope="module", params=["tiny", pytest.param("real", marks=pytest.mark.slow)])
def model(request):
    directory = request.getfixturevalue({"tiny": "tiny_checkpoint", "real": "smollm2"}[request.param])
    return LogProbModel(load_causal_lm(directory).double())


def batch_of(model, groups, prompt_gradient, reference=None) -> LogProbBatch:
    """What an objective reads; the reference is the model itself, or the given log-probs."""
    packed = pack_groups(groups)
    policy = model(packed, prompt_gradient)
    rewards = torch.zeros_like(policy.responses)
    for row, group in zip(rewards, groups, strict=True):
        row[: len(group.rewards)] = torch.tensor(group.rewards, dtype=torch.float64)
    reference = reference or policy
    return LogProbBatch(
        policy=policy.responses,
        lengths=packed.lengths,
        mask=packed.mask,
        reference=reference.responses.detach(),
        policy_prompt=policy.prompts,
        reference_prompt=reference.prompts.detach(),
        rewards=rewards,
    )


def gradient(model, loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, [model.model.get_input_embeddings().weight])])


def test_at_step_0_log_ratios_are_0_log_z_is_log_z0_and_dpo_is_ln_2(model):
    with torch.no_grad():
        reference = model(pack_groups(GROUPS), "detached")
        batch = batch_of(model, GROUPS, "detached", reference)
        assert float(batch.log_ratio().abs().max()) < 1e-9 and float(batch.prompt_log_ratio().abs().max()) < 1e-9
        rao = make_objective("rao", log_z0=3.0)
        torch.testing.assert_close(rao.log_z(batch), torch.full((2,), 3.0, dtype=torch.float64), rtol=0, atol=1e-9)
        assert make_objective("dpo")(batch).loss.item() == pytest.approx(0.69314718056, abs=1e-9)


def test_no_gradient_flows_through_the_prompt_unless_attached(model):
    def loss(prompt_term, **changes):
        objective = make_objective("rao", log_z0=1.0, prompt_term=prompt_term)
        return objective(replace(batch_of(model, GROUPS, prompt_term), **changes)).loss

    assert not model(pack_groups(GROUPS), "detached").prompts.requires_grad
    detached = gradient(model, loss("detached"))
    constant = batch_of(model, GROUPS, "detached").policy_prompt.detach()
    torch.testing.assert_close(detached, gradient(model, loss("detached", policy_prompt=constant)), rtol=0, atol=0)
    attached = gradient(model, loss("attached"))
    assert float((attached - detached).norm() / detached.norm()) > 1e-3


@pytest.mark.parametrize("name", ["rao", "rpo_distill", "rebel", "kimi_k15", "dgro", "raft"])
def test_responses_in_any_order_give_the_same_loss(model, name):
    order = [2, 0, 3, 1]
    first = replace(
        GROUPS[0],
        response_ids=[GROUPS[0].response_ids[i] for i in order],
        rewards=[GROUPS[0].rewards[i] for i in order],
    )
    objective = make_objective(name)
    with torch.no_grad():
        losses = [objective(batch_of(model, groups, "detached")).loss for groups in (GROUPS, [first, GROUPS[1]])]
    torch.testing.assert_close(*losses, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", ["rao", "dpo", "simpo", "rpo_distill"])
def test_a_group_beside_a_larger_one_counts_as_it_does_alone(model, name):
    """Beside a group of four responses a pair has two masked columns, which change nothing."""
    objective = make_objective(name)
    with torch.no_grad():
        together = objective(batch_of(model, GROUPS, "detached")).loss
        alone = [objective(batch_of(model, [group], "detached")).loss for group in GROUPS]
    torch.testing.assert_close(together, sum(alone) / 2, rtol=1e-9, atol=0)
