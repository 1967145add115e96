"""What RAO converges to, on languages whose exact optimum pi* is known."""

from dataclasses import replace

import pytest
import torch
from toy_world import TablePolicy, ToyWorld, minimise

from rao_kedro.objectives import make_objective

WORLDS = [(2, 4, 0.3), (3, 3, 0.5), (4, 2, 1.0)]


@pytest.fixture(params=WORLDS, ids=lambda p: f"vocabulary{p[0]}-length{p[1]}")
def world(request):
    return ToyWorld(*request.param)


def start(world):
    """The policy begins as the reference."""
    return TablePolicy(world.vocabulary, world.length, world.seed)


def rao(world, log_z0=None, **parameters):
    return make_objective(
        "rao", beta=world.beta, log_z0=world.log_z().item() if log_z0 is None else log_z0, **parameters
    )


def distance_to_optimum(world, policy, given):
    """The largest error of log pi(y|x), in nats."""
    with torch.no_grad():
        return max(abs(float(policy.logp(s, given) - world.optimal_logp(s, given))) for s in world.sequences)


def test_prefix_consistency_holds_on_every_prefix(world):
    """Z(xy) / Z(x) = pi*(y|x) / pi_ref(y|x), so log Z(x) is log Z_0 plus the log-ratio of x."""
    for length in range(world.length + 1):
        for prefix in world.continuations(length):
            log_ratio = world.optimal_logp(prefix) - world.reference.logp(prefix)
            assert abs(float(world.log_z(prefix) - world.log_z() - log_ratio)) < 1e-12


@pytest.mark.parametrize("prompt_term", ["detached", "attached"])
def test_at_the_optimum_every_residual_and_the_gradient_are_0(world, prompt_term):
    policy = world.optimal_policy()
    objective, batch = rao(world, prompt_term=prompt_term), world.groups(policy, prompt_length=1)
    assert float(objective.residuals(batch).detach().abs().max()) < 1e-12
    objective(batch).loss.backward()
    assert all(table.grad is None or float(table.grad.abs().max()) < 1e-12 for table in policy.tables)


def test_attached_converges_to_the_optimum(world):
    policy, objective = start(world), rao(world, prompt_term="attached")
    minimise(policy, lambda: objective(world.groups(policy, prompt_length=1)).loss)
    assert distance_to_optimum(world, policy, given=0) < 1e-4


def test_detached_converges_where_an_oracle_tells_log_z_of_every_prompt(world):
    policy, objective = start(world), rao(world)
    oracle = torch.stack([world.optimal_logp(x) for x in world.continuations(1)])
    minimise(policy, lambda: objective(replace(world.groups(policy, prompt_length=1), policy_prompt=oracle)).loss)
    assert distance_to_optimum(world, policy, given=1) < 1e-4


def test_detached_converges_where_the_only_prompt_is_t0(world):
    policy, objective = start(world), rao(world)
    minimise(policy, lambda: objective(world.groups(policy, prompt_length=0)).loss)
    assert distance_to_optimum(world, policy, given=0) < 1e-4


def test_detached_with_parameters_per_prompt_does_not_converge(world):
    """Prompt rows get no gradient, so log Z_i stays log_z0 for all prompts; this is what the paper does."""
    policy, objective = start(world), rao(world)
    minimise(policy, lambda: objective(world.groups(policy, prompt_length=1)).loss)
    log_z = objective.log_z(world.groups(policy, prompt_length=1))
    torch.testing.assert_close(log_z, world.log_z().expand(len(log_z)), rtol=0, atol=1e-12)
    assert distance_to_optimum(world, policy, given=1) > 0.01


@pytest.mark.parametrize("log_z0", [-3.0, 0.0, 5.0])
def test_on_policy_weighting_makes_the_optimum_independent_of_log_z0(world, log_z0):
    policy, objective = start(world), rao(world, log_z0)

    def on_policy_gradient_step():
        batch = world.groups(policy, prompt_length=1)
        weights = batch.policy.exp().detach()
        return (weights * objective.residuals(batch).square()).sum()

    optimizer = torch.optim.Adam(policy.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for _ in range(400):
        optimizer.zero_grad()
        on_policy_gradient_step().backward()
        optimizer.step()
        schedule.step()
    assert distance_to_optimum(world, policy, given=1) < 1e-2


def sparse(world, objective):
    """Train on two of all responses to each prompt."""
    responses = world.continuations(world.length - 1)[:2]
    policy = start(world)

    def batch():
        return world.groups(policy, prompt_length=1, responses=responses)

    loss = minimise(policy, lambda: objective(batch()).loss)
    with torch.no_grad():
        out = objective(batch())
        return loss, batch().log_ratio().mean().item(), {name: value.item() for name, value in out.metrics.items()}


def test_feasible_targets_are_hit_and_a_larger_log_z0_lowers_them_by_its_increment():
    world = ToyWorld(3, 3, 0.5)
    results = {log_z0: sparse(world, rao(world, log_z0)) for log_z0 in (3.0, 4.5)}
    for loss, _, metrics in results.values():
        assert metrics["infeasible"] == 0 and loss < 1e-12 and metrics["target_rmse"] < 1e-5
    assert results[3.0][1] - results[4.5][1] == pytest.approx(1.5, abs=1e-5)


def test_infeasible_targets_leave_a_loss():
    world = ToyWorld(3, 3, 0.5)
    loss, _, metrics = sparse(world, rao(world, log_z0=-6.0))
    assert metrics["infeasible"] == 1 and loss > 0.1
