"""Each objective against arithmetic by hand, on one group with h = (1, -2), log-probs (-10, -22), 5 and 7 tokens."""

import math

import pytest
import torch
from batches import one_group

from rao_kedro.objectives import LogProbBatch, make_objective


def loss(name: str, batch=None, **parameters) -> float:
    return make_objective(name, **parameters)(batch or one_group()).loss.item()


def test_ipo():
    """tau 0.1: (3 - 1/0.2)^2 = 4. With mean log-probs: (1/5 + 2/7 - 5)^2 = (-4.514286)^2 = 20.378776."""
    assert loss("ipo", tau=0.1) == pytest.approx(4.0, abs=1e-5)
    assert loss("ipo", tau=0.1, logp_reduction="mean") == pytest.approx(20.378776, abs=1e-4)


def test_simpo():
    """beta 2, gamma 1: avg = (-2, -3.142857); 2 * 1.142857 - 1 = 1.285714; log(1 + e^-1.285714) = 0.244085."""
    assert loss("simpo", beta=2.0, gamma=1.0) == pytest.approx(0.244085, abs=1e-5)


def test_rpo_distill():
    """beta 0.1: ((0.3 + 0.1) - 0.1 * 3)^2 = 0.01.

    A third response with h = 0 and r = 0 makes three pairs: residuals 0.1, (0.3 - 0.1) = 0.2, (-0.1 + 0.2) = 0.1;
    L = (0.01 + 0.04 + 0.01) / 3 = 0.02.
    """
    assert loss("rpo_distill", beta=0.1) == pytest.approx(0.01, abs=1e-6)
    three = one_group(
        policy=torch.tensor([[-10.0, -22.0, -9.0]]),
        reference=torch.tensor([[-11.0, -20.0, -9.0]]),
        rewards=torch.tensor([[0.3, -0.1, 0.0]]),
        lengths=torch.tensor([[5, 7, 3]]),
        mask=torch.ones(1, 3, dtype=torch.bool),
    )
    assert loss("rpo_distill", three, beta=0.1) == pytest.approx(0.02, abs=1e-6)


def test_cal_dpo():
    """beta 0.1, so targets +-5: log(1 + e^-3) + (1 - 5)^2 + (-2 + 5)^2 = 0.048587 + 16 + 9; half of 25 with c = 0.5."""
    assert loss("cal_dpo", beta=0.1) == pytest.approx(25.048587, abs=1e-4)
    assert loss("cal_dpo", beta=0.1, calibration_weight=0.5) == pytest.approx(12.548587, abs=1e-4)


def test_dro():
    """tau 1, V 0.2: d = (0.3 - 0.2 - 1, -0.1 - 0.2 + 2) = (-0.9, 1.7), mean square 1.85, so 0.925 for each network.

    tau 0.5: d = (0.3 - 0.2 - 0.5, -0.3 + 1) = (-0.4, 0.7), mean square 0.325: 0.1625 / 0.5 + 0.1625 = 0.4875.
    """
    batch = one_group(values=torch.tensor([0.2]))
    assert loss("dro", batch, tau=1.0) == pytest.approx(1.85, abs=1e-5)
    assert loss("dro", batch, tau=0.5) == pytest.approx(0.4875, abs=1e-5)


def test_slic_hf():
    """delta 1, lambda 0.1: max(0, 1 + 10 - 22) + 0.1 * 10 = 1; with log pi_l = -10.5, max(0, 0.5) + 1 = 1.5."""
    assert loss("slic_hf", delta=1.0, **{"lambda": 0.1}) == pytest.approx(1.0, abs=1e-5)
    close = one_group(policy=torch.tensor([[-10.0, -10.5]]))
    assert loss("slic_hf", close, delta=1.0, **{"lambda": 0.1}) == pytest.approx(1.5, abs=1e-5)


def test_orpo():
    """P = e^-2 = 0.135335 and e^-3.142857 = 0.043159: log odds -1.854587 and -3.098741, difference 1.244154.

    L = 2 + 0.1 * log(1 + e^-1.244154) = 2 + 0.1 * 0.253234.
    """
    assert loss("orpo", **{"lambda": 0.1}) == pytest.approx(2.0253234, abs=1e-5)


def test_dpop():
    """h_w = 1 > 0: DPO's 0.554355. h = (-1, -2), lambda 50: 0.1 * (1 - 50) = -4.9, log(1 + e^4.9) = 4.907419."""
    assert loss("dpop", beta=0.1, **{"lambda": 50.0}) == pytest.approx(0.554355, abs=1e-5)
    fallen = one_group(policy=torch.tensor([[-12.0, -22.0]]))
    assert loss("dpop", fallen, beta=0.1, **{"lambda": 50.0}) == pytest.approx(4.907419, abs=1e-4)


def test_dpo_shift():
    """beta 0.1, f 0.5: 0.1 * (1 + 0.5 * 2) = 0.2, log(1 + e^-0.2) = 0.598139; f from 1 to 0 is 0.5 half-way."""
    assert loss("dpo_shift", beta=0.1, f=0.5) == pytest.approx(0.598139, abs=1e-5)
    assert loss("dpo_shift", one_group(progress=0.5), beta=0.1, f=1.0, f_end=0.0) == pytest.approx(0.598139, abs=1e-5)


def test_kto():
    """z = (1 + 0) / 2 = 0.5: 1 - sigmoid(0.05) = 0.487503 and 1 - sigmoid(0.1 * 2.5) = 0.437823, mean 0.462663.

    A negative mean is cut to z = 0: 1 - sigmoid(0.1) = 0.475021 and 1 - sigmoid(0.2) = 0.450166, mean 0.462594.
    """

    def batch(*policy):
        return one_group(mismatched_policy=torch.tensor(policy), mismatched_reference=torch.tensor([-30.0, -40.0]))

    assert loss("kto", batch(-29.0, -40.0), beta=0.1) == pytest.approx(0.462663, abs=1e-5)
    assert loss("kto", batch(-32.0, -40.0), beta=0.1) == pytest.approx(0.462594, abs=1e-5)


def test_kimi_k15():
    """tau 0.1, mean reward 0.1: d = (0.2 - 0.1, -0.2 + 0.2) = (0.1, 0), L = 0.005.

    With log-mean-exp: b = 0.1 * log((e^3 + e^-1) / 2) = 0.1 * 2.325003 = 0.2325003;
    d = (0.3 - 0.2325003 - 0.1, -0.1 - 0.2325003 + 0.2) = (-0.0325003, -0.1325003), L = 0.009306.
    """
    assert loss("kimi_k15", tau=0.1) == pytest.approx(0.005, abs=1e-6)
    assert loss("kimi_k15", tau=0.1, group_baseline="log_mean_exp") == pytest.approx(0.009306, abs=1e-5)


def test_rpo_partition():
    """tau 1: b = log(e^-10.7 + e^-20.1) = -10.699917; d = (9.999917, 12.599917), mean square 129.378124."""
    assert loss("rpo_partition", tau=1.0) == pytest.approx(129.378124, abs=1e-3)


def test_dgro():
    """p 1, q 0.1: -0.2 * 1 + 0.05 * 1 = -0.15 and 0.2 * -2 + 0.05 * 4 = -0.2, mean -0.175."""
    assert loss("dgro", policy_weight=1.0, regularization_weight=0.1) == pytest.approx(-0.175, abs=1e-6)


def test_rloo():
    """beta 0.1: R = (0.3 - 0.1 * 0.5, -0.1 + 0.1 * 1) = (0.25, 0), A = (0.25, -0.25); ratios (e^0.5, e^-1).

    Clipped at 1.2: -0.25 * 1.2 = -0.3. At 0.8: max(0.25 * 0.367879, 0.25 * 0.8) = 0.2. L = -0.05.
    """
    batch = one_group(sampling=torch.tensor([[-10.5, -21.0]]))
    assert loss("rloo", batch, beta=0.1) == pytest.approx(-0.05, abs=1e-6)


def test_raft():
    """The best reward is 0.3: 10 / 5 = 2 nats per token. If it is that of the other response, 22 / 7 = 3.142857."""
    assert loss("raft") == pytest.approx(2.0, abs=1e-6)
    assert loss("raft", one_group(rewards=torch.tensor([[0.3, 0.4]]))) == pytest.approx(3.142857, abs=1e-6)


def test_raft_learns_the_best_response_of_each_group_and_no_other():
    """Groups of 2 and 3: of equal rewards the chosen response is the best, and a masked one never is.

    L = (4 / 2 + 9 / 3) / 2 = 2.5; the gradients are -1/2 and -1/3, divided by two groups.
    """
    policy = torch.tensor([[-4.0, -5.0, -1.0], [-6.0, -7.0, -9.0]], requires_grad=True)
    batch = LogProbBatch(
        policy=policy,
        rewards=torch.tensor([[1.0, 1.0, 99.0], [-3.0, -2.0, -1.0]]),
        lengths=torch.tensor([[2, 4, 0], [2, 2, 3]]),
        mask=torch.tensor([[True, True, False], [True, True, True]]),
    )
    out = make_objective("raft")(batch)
    assert out.loss.item() == pytest.approx(2.5)
    out.loss.backward()
    torch.testing.assert_close(policy.grad, torch.tensor([[-1 / 4, 0, 0], [0, 0, -1 / 6]]))
    assert out.metrics["best_is_chosen"].item() == 0.5 and "log_ratio_chosen" not in out.metrics


def test_what_is_reported_of_targets_and_likelihoods():
    """RAO with beta 0.1, log_z0 2: log Z = 2.5, targets (0.5, -3.5), achieved (1, -2).

    Mean target -1.5; rmse = sqrt((0.25 + 2.25) / 2) = 1.118034; two points correlate exactly; the chosen target is up.
    log target mass = log(e^(-11 + 0.5) + e^(-20 - 3.5)) = -10.499998.
    """
    metrics = make_objective("rao", beta=0.1, log_z0=2.0)(one_group()).metrics
    found = {name: value.item() for name, value in metrics.items()}
    assert found["target_mean"] == pytest.approx(-1.5, abs=1e-5)
    assert found["target_rmse"] == pytest.approx(1.118034, abs=1e-4)
    assert found["target_correlation"] == pytest.approx(1.0, abs=1e-4)
    assert found["log_target_mass"] == pytest.approx(-10.499998, abs=1e-4)
    assert (found["chosen_target_is_up"], found["infeasible"]) == (1.0, 0.0)
    assert (found["chosen_likelihood_fell"], found["rejected_likelihood_fell"]) == (0.0, 1.0)
    assert found["log_z"] == pytest.approx(2.5) and found["prompt_log_ratio"] == pytest.approx(0.5)


def test_targets_whose_mass_exceeds_one_are_reported_as_infeasible():
    """Two responses of reference log-prob -1 and reward 2 with beta 1, log_z0 0: 2 e^(-1 + 2) = 5.44 > 1."""
    batch = one_group(
        policy=torch.tensor([[-1.0, -1.0]]), reference=torch.tensor([[-1.0, -1.0]]), rewards=torch.tensor([[2.0, 2.0]])
    )
    metrics = make_objective("rao", beta=1.0, log_z0=0.0, prompt_term="none")(batch).metrics
    assert metrics["infeasible"].item() == 1.0
    assert metrics["log_target_mass"].item() == pytest.approx(1.693147, abs=1e-5)


def test_qrpo():
    """beta 0.5: Z = 0.5 (e^2 - 1) = 3.194528, log Z = 1.161440. Of (-1, 0, 0.3, 1), 3/4 are <= 0.3 and 1/4 is <= -0.1.

    d = (0.75 - 0.580720 - 0.5, 0.25 - 0.580720 + 1) = (-0.330720, 0.669280), L = (0.109376 + 0.447936) / 2 = 0.278656.
    With mean log-ratios (0.2, -2/7): d = (0.069280, -0.187863), L = (0.004800 + 0.035292) / 2 = 0.020046.
    """
    batch = one_group(reference_rewards=torch.tensor([[-1.0, 0.0, 0.3, 1.0]]))
    assert loss("qrpo", batch, beta=0.5) == pytest.approx(0.278656, abs=1e-5)
    assert loss("qrpo", batch, beta=0.5, logp_reduction="mean") == pytest.approx(0.020046, abs=1e-5)
    padded = one_group(reference_rewards=torch.tensor([[-1.0, 0.0, 0.3, 1.0, float("nan")]]))
    assert loss("qrpo", padded, beta=0.5) == loss("qrpo", batch, beta=0.5)


def test_what_qrpo_reports_of_targets_are_those_of_whole_responses():
    """beta 0.5: targets (1.5 - 1.161440, 0.5 - 1.161440) per nat; with mean log-probs times 5 and 7 tokens."""
    batch = one_group(reference_rewards=torch.tensor([[-1.0, 0.0, 0.3, 1.0]]))
    for reduction, mean in (("sum", (0.338560 - 0.661440) / 2), ("mean", (5 * 0.338560 - 7 * 0.661440) / 2)):
        objective = make_objective("qrpo", beta=0.5, logp_reduction=reduction)
        metrics = objective(batch).metrics
        assert metrics["target_mean"].item() == pytest.approx(mean, abs=1e-4)
        assert metrics["reward_mean"].item() == pytest.approx(0.1, abs=1e-6)
        assert objective.temperature == (0.5 if reduction == "sum" else None)


@pytest.mark.parametrize(("beta", "expected"), [(1e-4, 1e4 + math.log(1e-4)), (1.0, math.log(math.e - 1)), (1e6, 5e-7)])
def test_log_z_of_qrpo_neither_overflows_nor_cancels(beta, expected):
    """Z = 1 + 1/(2 beta) + ... for large beta."""
    assert make_objective("qrpo", beta=beta).log_z == pytest.approx(expected, rel=1e-6)


def test_a_group_without_reference_rewards_is_refused():
    with pytest.raises(ValueError, match="every group needs a reference reward"):
        one_group(reference_rewards=torch.tensor([[float("nan"), float("nan")]]))
