"""The losses that TRL implements too, on the same tensors: its own code, fed with log-probs in place of a model."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from batches import random_batch

from rao_kedro.objectives import make_objective

pytest.importorskip("trl", reason="trl is not installed")

TOKENS = 40


def per_token(sums, lengths):
    """Token log-probs `[N, TOKENS]` with the given sums, on the first `lengths` tokens, and the mask of these."""
    mask = (torch.arange(TOKENS)[None] < lengths[:, None]).to(sums.dtype)
    return mask * (sums / lengths)[:, None], mask


def outputs(log_probs):
    zeros = torch.zeros_like(log_probs)
    named = {"entropy": zeros, "mean_logits": zeros, "is_top1": zeros.bool(), "log_sum_sq_probs": zeros}
    return SimpleNamespace(log_probs=log_probs, **named)


def trainer(**attributes):
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda x: x, gather=lambda x: x)
    shared = {"model": SimpleNamespace(training=True), "accelerator": accelerator, "aux_loss_enabled": False}
    shared |= {"_metrics": {"train": defaultdict(list)}, "_total_train_tokens": 0, "_tp_size": 1}
    return SimpleNamespace(**shared, precompute_ref_logps=True, **attributes)


def batch_of_trl(policy, lengths):
    """The model's output and the inputs of a batch `[chosen; rejected]`, a prompt of one token before each response."""
    log_probs, mask = per_token(policy.T.reshape(-1), lengths.T.reshape(-1))
    mask = torch.cat([torch.zeros(len(mask), 1), mask], dim=1).long()
    ids = torch.ones_like(mask)
    inputs = {"input_ids": ids, "attention_mask": ids, "completion_mask": mask}
    return (lambda **_: outputs(log_probs)), inputs


@pytest.mark.parametrize(
    ("loss_type", "name", "parameters", "theirs"),
    [
        ("sigmoid", "dpo", {"beta": 0.3}, {"beta": 0.3, "label_smoothing": 0.0}),
        ("sigmoid_norm", "dpo", {"beta": 3.0, "logp_reduction": "mean"}, {"beta": 3.0}),
        # Without the sum of squared probabilities, which the weights here do not have either.
        ("sigmoid", "dpo", {"beta": 0.3, "wpo": True}, {"beta": 0.3, "label_smoothing": 0.0, "use_weighting": True}),
        ("ipo", "ipo", {"tau": 0.2, "logp_reduction": "mean"}, {"beta": 0.2}),
    ],
)
def test_dpo_and_ipo(loss_type, name, parameters, theirs):
    from trl import DPOTrainer

    batch = random_batch(0)
    model, inputs = batch_of_trl(batch.policy[:, :2], batch.lengths[:, :2])
    inputs |= {"ref_chosen_logps": batch.reference[:, 0], "ref_rejected_logps": batch.reference[:, 1]}
    them = trainer(
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        loss_types=[loss_type],
        loss_weights=[1.0],
        **({"use_weighting": False} | theirs),
    )
    expected = DPOTrainer._compute_loss(them, model, inputs, return_outputs=False)
    if loss_type == "ipo":  # TRL's lengths count the completion mask, ours are the response tokens: the same here
        assert bool((inputs["completion_mask"].sum(1) == batch.lengths[:, :2].T.reshape(-1)).all())
    assert_same(make_objective(name, **parameters)(batch).loss, expected, batch.policy)


def test_kto():
    from trl import KTOTrainer

    batch = random_batch(1)
    model, inputs = batch_of_trl(batch.policy[:, :2], batch.lengths[:, :2])
    n = len(batch.policy)
    inputs |= {
        "label": torch.tensor([True] * n + [False] * n),
        "ref_logps": batch.reference[:, :2].T.reshape(-1),
        "ref_KL_logps": batch.mismatched_reference,
    }
    them = trainer(
        loss_type="kto",
        beta=0.3,
        desirable_weight=1.0,
        undesirable_weight=2.0,
        calculate_KL=True,
        _compute_kl_logps=lambda model, inputs: batch.mismatched_policy,
    )
    expected = KTOTrainer._compute_loss(them, model, inputs, return_outputs=False)
    ours = make_objective("kto", beta=0.3, undesirable_weight=2.0)(batch).loss
    assert_same(ours, expected, batch.policy)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_simpo(smoothing):
    from trl.experimental.cpo import CPOTrainer

    batch = random_batch(2)
    them = trainer(alpha=0.0, loss_type="simpo", simpo_gamma=0.5, beta=2.0, label_smoothing=smoothing)
    chosen, rejected = (batch.policy[:, i] / batch.lengths[:, i] for i in (0, 1))
    expected = CPOTrainer.cpo_loss(them, chosen, rejected)[0].mean()
    ours = make_objective("simpo", beta=2.0, gamma=0.5, label_smoothing=smoothing)(batch).loss
    assert_same(ours, expected, batch.policy)


def test_orpo():
    from trl.experimental.orpo import ORPOTrainer

    batch = random_batch(3)
    chosen, rejected = (batch.policy[:, i] / batch.lengths[:, i] for i in (0, 1))
    ratio = ORPOTrainer.odds_ratio_loss(trainer(beta=0.2), chosen, rejected)[0]
    expected = -chosen.mean() - ratio.mean().double()
    assert_same(make_objective("orpo", **{"lambda": 0.2})(batch).loss, expected, batch.policy, rtol=1e-5)


def assert_same(ours, theirs, policy, rtol=1e-6):
    torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=rtol, atol=1e-7)
    found, expected = (torch.autograd.grad(loss, policy, retain_graph=True)[0] for loss in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=rtol * 10, atol=1e-8)
