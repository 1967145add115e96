"""Each objective against a second implementation: plain loops over scalars in float64, gradients by autograd."""

import math
from dataclasses import fields, replace
from itertools import combinations

import pytest
import torch
from batches import random_batch
from hypothesis import given, settings
from hypothesis import strategies as st

from rao_kedro.objectives import get_requirements, make_objective, objective_names

COLUMNS = ("policy", "reference", "rewards", "lengths")
OF_GROUP = ("policy_prompt", "reference_prompt", "values", "reference_rewards")


def log1pexp(x):
    return torch.log(1 + torch.exp(x))


def rao(g):
    log_z = 4.0 + (g["policy_prompt"] - g["reference_prompt"]).detach()
    return sum((r - 0.3 * (p - q) - 0.3 * log_z) ** 2 for p, q, r, _ in g["rows"]) / len(g["rows"])


def dpo(g):
    (pw, qw, *_), (pl, ql, *_) = g["rows"][:2]
    return log1pexp(-0.3 * ((pw - qw) - (pl - ql)))


def ipo(g):
    (pw, qw, *_), (pl, ql, *_) = g["rows"][:2]
    return (pw - pl - qw + ql - 1 / 0.6) ** 2


def simpo(g):
    (pw, _, _, nw), (pl, _, _, nl) = g["rows"][:2]
    return log1pexp(-(2.0 * (pw / nw - pl / nl) - 0.5))


def rpo_distill(g):
    pairs = list(combinations(g["rows"], 2))
    return sum(((a[2] - b[2]) - 0.3 * (a[0] - a[1] - b[0] + b[1])) ** 2 for a, b in pairs) / len(pairs)


def cal_dpo(g):
    hw, hl = (p - q for p, q, *_ in g["rows"][:2])
    return log1pexp(hl - hw) + (hw - 1 / 0.6) ** 2 + (hl + 1 / 0.6) ** 2


def dro(g):
    k, value = len(g["rows"]), g["values"]
    policy = sum(0.5 * (r - value.detach() - 0.3 * (p - q)) ** 2 / 0.3 for p, q, r, _ in g["rows"]) / k
    return policy + sum(0.5 * (r - value - 0.3 * (p - q).detach()) ** 2 for p, q, r, _ in g["rows"]) / k


def slic_hf(g):
    pw, pl = g["rows"][0][0], g["rows"][1][0]
    hinge = 1.0 - pw + pl
    return (hinge if hinge > 0 else 0 * hinge) - 0.2 * pw


def orpo(g):
    (pw, _, _, nw), (pl, _, _, nl) = g["rows"][:2]
    odds = [torch.exp(p / n) / (1 - torch.exp(p / n)) for p, n in ((pw, nw), (pl, nl))]
    return -pw / nw + 0.2 * log1pexp(-torch.log(odds[0] / odds[1]))


def dpop(g):
    hw, hl = (p - q for p, q, *_ in g["rows"][:2])
    penalty = -hw if hw < 0 else 0 * hw
    return log1pexp(-0.3 * (hw - hl - 5.0 * penalty))


def dpo_shift(g):
    hw, hl = (p - q for p, q, *_ in g["rows"][:2])
    return log1pexp(-0.3 * (hw - 0.7 * hl))


def kto(g):
    hw, hl = (p - q for p, q, *_ in g["rows"][:2])
    z = max(0.0, float(g["mismatched"]))
    return (1 / (1 + torch.exp(0.3 * (hw - z))) + 2 / (1 + torch.exp(0.3 * (z - hl)))) / 2


def kimi_k15(g):
    mean = sum(r for *_, r, _ in g["rows"]) / len(g["rows"])
    return sum((r - mean - 0.3 * (p - q)) ** 2 for p, q, r, _ in g["rows"]) / len(g["rows"])


def rpo_partition(g):
    log_sum = math.log(sum(math.exp(float(q) + float(r) / 0.3) for _, q, r, _ in g["rows"]))
    return sum((r - 0.3 * log_sum - 0.3 * (p - q)) ** 2 for p, q, r, _ in g["rows"]) / len(g["rows"])


def dgro(g):
    mean = sum(r for *_, r, _ in g["rows"]) / len(g["rows"])
    return sum(-0.8 * (r - mean) * (p - q) + 0.3 / 2 * (p - q) ** 2 for p, q, r, _ in g["rows"]) / len(g["rows"])


def rloo(g):
    rewards = [r - 0.3 * (s - q) for (_, q, r, _), s in zip(g["rows"], g["sampling"], strict=True)]
    total = 0.0
    for j, ((p, *_), s) in enumerate(zip(g["rows"], g["sampling"], strict=True)):
        others = rewards[:j] + rewards[j + 1 :]
        advantage, ratio = rewards[j] - sum(others) / len(others), torch.exp(p - s)
        clipped = torch.clamp(ratio, 0.9, 1.1)
        total = total - torch.minimum(advantage * ratio, advantage * clipped)
    return total / len(rewards)


def raft(g):
    best, _, _, n = max(g["rows"], key=lambda row: row[2])
    return -best / n


def qrpo(g):
    log_z = math.log(0.3 * (math.exp(1 / 0.3) - 1))
    sampled = [r for r in g["reference_rewards"].tolist() if r == r]
    quantiles = [sum(s <= float(r) for s in sampled) / len(sampled) for *_, r, _ in g["rows"]]
    terms = zip(g["rows"], quantiles, strict=True)
    return sum((u - 0.3 * log_z - 0.3 * (p - q)) ** 2 for (p, q, *_), u in terms) / len(g["rows"])


ORACLES = {
    "rao": (rao, {"beta": 0.3, "log_z0": 4.0}),
    "dpo": (dpo, {"beta": 0.3}),
    "ipo": (ipo, {"tau": 0.3}),
    "simpo": (simpo, {"beta": 2.0, "gamma": 0.5}),
    "rpo_distill": (rpo_distill, {"beta": 0.3}),
    "cal_dpo": (cal_dpo, {"beta": 0.3}),
    "dro": (dro, {"tau": 0.3}),
    "slic_hf": (slic_hf, {"delta": 1.0, "lambda": 0.2}),
    "orpo": (orpo, {"lambda": 0.2}),
    "dpop": (dpop, {"beta": 0.3, "lambda": 5.0}),
    "dpo_shift": (dpo_shift, {"beta": 0.3, "f": 0.7}),
    "kto": (kto, {"beta": 0.3, "undesirable_weight": 2.0}),
    "kimi_k15": (kimi_k15, {"tau": 0.3}),
    "rpo_partition": (rpo_partition, {"tau": 0.3}),
    "rloo": (rloo, {"beta": 0.3, "clip_range": 0.1}),
    "dgro": (dgro, {"policy_weight": 0.8, "regularization_weight": 0.3}),
    "raft": (raft, {}),
    "qrpo": (qrpo, {"beta": 0.3}),
    "rebel": (rpo_distill, {"eta": 1 / 0.3}),
}


def oracle_loss(function, batch):
    mismatched = sum(batch.mismatched_policy - batch.mismatched_reference) / len(batch.mismatched_policy)
    losses = []
    for i in range(len(batch.policy)):
        columns = [j for j in range(batch.policy.shape[1]) if batch.mask[i, j]]
        group = {name: getattr(batch, name)[i] for name in OF_GROUP}
        rows = [tuple(getattr(batch, name)[i, j] for name in COLUMNS) for j in columns]
        group["sampling"] = [batch.sampling[i, j] for j in columns]
        losses.append(function(group | {"rows": rows, "mismatched": mismatched}))
    return sum(losses) / len(losses)


def gradients(loss, batch):
    inputs = (batch.policy, batch.policy_prompt, batch.values)
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def test_every_objective_has_an_oracle():
    assert set(ORACLES) == set(objective_names()) - {"ppo"}


@pytest.mark.parametrize("name", ORACLES)
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_loss_and_gradients_equal_those_of_plain_loops(name, seed):
    function, parameters = ORACLES[name]
    batch = random_batch(seed)
    loss, expected = make_objective(name, **parameters)(batch).loss, oracle_loss(function, batch)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    for found, wanted in zip(gradients(loss, batch), gradients(expected, batch), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ORACLES)
def test_masked_responses_change_nothing(name):
    batch = random_batch(3)
    garbage = {
        field: torch.where(batch.mask, getattr(batch, field).detach(), torch.full_like(batch.policy, -777.0))
        for field in ("policy", "reference", "sampling", "rewards")
    }
    objective = make_objective(name, **ORACLES[name][1])
    changed = replace(batch, **garbage | {"policy": garbage["policy"].requires_grad_()})
    before, after = objective(batch), objective(changed)
    torch.testing.assert_close(before.loss, after.loss, rtol=0, atol=0)
    for metric, value in before.metrics.items():
        torch.testing.assert_close(after.metrics[metric], value, rtol=0, atol=0, msg=metric)
    assert bool((gradients(after.loss, changed)[0][~batch.mask] == 0).all())


@pytest.mark.parametrize("name", [n for n in ORACLES if get_requirements(n).reads == "groups"])
def test_responses_in_any_order_give_the_same_loss(name):
    batch = random_batch(7)
    order = torch.tensor([1, 0, 3, 2])
    permuted = {f.name: getattr(batch, f.name) for f in fields(batch)}
    permuted |= {field: permuted[field][:, order] for field in (*COLUMNS, "sampling", "mask")}
    objective = make_objective(name, **ORACLES[name][1])
    torch.testing.assert_close(objective(batch).loss, objective(replace(batch, **permuted)).loss, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ORACLES)
def test_metrics_are_detached_scalars(name):
    metrics = make_objective(name, **ORACLES[name][1])(random_batch(1)).metrics
    assert all(value.dim() == 0 and not value.requires_grad for value in metrics.values())
    assert {"rewards_chosen", "rewards_rejected", "margin", "accuracy", "log_ratio_chosen"} <= set(metrics)
