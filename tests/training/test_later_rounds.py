"""Training that does not start at its reference, as in a later round: the reference stays what is compared with."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from groups import alignment_spec, log_of, parameters, reference, write_groups
from launching import IN_PROCESS

from rao_kedro.errors import TrainingError
from rao_kedro.models.chat_format import load_tokenizer
from rao_kedro.models.loading import load_causal_lm, save_checkpoint
from rao_kedro.training.tasks.kto import KTOAlignment
from rao_kedro.training.tasks.offline import OfflineAlignment
from rao_kedro.workers import launch


@pytest.fixture
def groups_path(tmp_path, tiny_checkpoint):
    path = write_groups(tmp_path / "groups.parquet", 12)
    reference(tmp_path, tiny_checkpoint, path)
    return path


@pytest.fixture(scope="module")
def policy(tmp_path_factory, tiny_checkpoint):
    """What an earlier round has made of the reference."""
    model = load_causal_lm(tiny_checkpoint)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    directory = tmp_path_factory.mktemp("policy") / "model"
    save_checkpoint(model, load_tokenizer(tiny_checkpoint), directory)
    return directory


def later_round(tmp_path, tiny_checkpoint, policy, groups_path, name, **changes):
    objective = {"log_z0": 0.0} if name == "rao" else {}
    training = parameters(epochs=1, keep="last")
    spec = alignment_spec(tmp_path, tiny_checkpoint, groups_path, name, training, **objective)
    return spec.model_copy(update={"model_dir": policy, "reference_dir": tiny_checkpoint} | changes)


def log_ratio(policy, tiny_checkpoint, groups_path):
    """The mean log-ratio of the chosen responses of the validation groups, from plain models."""
    ratios = []
    ours, theirs = (load_causal_lm(path).requires_grad_(False) for path in (policy, tiny_checkpoint))
    for row in pq.read_table(groups_path).to_pylist():
        if row["split"] == "validation":
            response = row["response_ids"][row["chosen"]]
            ids = torch.tensor([row["prompt_ids"] + response])
            logps = [model(ids).logits.log_softmax(-1)[0, -len(response) - 1 : -1] for model in (ours, theirs)]
            ratios.append(sum(float((logps[0] - logps[1])[i, token]) for i, token in enumerate(response)))
    return sum(ratios) / len(ratios)


@pytest.mark.parametrize("name", ["rao", "dpo", "simpo"])
def test_log_ratios_are_those_to_the_reference_and_not_to_the_start(
    tmp_path, tiny_checkpoint, policy, groups_path, name
):
    """With reference log-probs in a table, and without them."""
    changes = {"reference_path": None} if name == "simpo" else {}
    spec = later_round(tmp_path, tiny_checkpoint, policy, groups_path, name, **changes)
    launch(spec, IN_PROCESS)
    first = log_of(spec.workspace)[1][0]
    assert first["eval_log_ratio_chosen"] == pytest.approx(log_ratio(policy, tiny_checkpoint, groups_path), abs=1e-3)
    assert abs(first["eval_log_ratio_chosen"]) > 0.1


def test_the_kl_divergence_is_that_from_the_reference(tmp_path, tiny_checkpoint, policy, groups_path):
    """Within one training, the policy moves little from its start, which is far from the reference."""
    training = parameters(epochs=1, keep="last", learning_rate=1e-7)
    spec = later_round(tmp_path, tiny_checkpoint, policy, groups_path, "dpo", training=training)
    near = spec.model_copy(update={"reference_dir": None, "workspace": tmp_path / "near"})
    reference(tmp_path / "near", tiny_checkpoint, groups_path, policy)
    near = near.model_copy(update={"reference_path": tmp_path / "near/reference.parquet"})
    far, close = (
        [launch(of, IN_PROCESS), log_of(of.workspace)[1][-1]["eval_kl_to_reference"]][1] for of in (spec, near)
    )
    assert abs(close) < 1e-3 < 0.1 < far


def test_reference_log_probs_of_the_start_are_refused(tmp_path, tiny_checkpoint, policy, groups_path):
    spec = later_round(tmp_path, tiny_checkpoint, policy, groups_path, "dpo", reference_dir=None)
    with pytest.raises(TrainingError, match="belong to other weights"):
        OfflineAlignment(spec)


def test_log_z0_is_solved_from_the_rewards_of_the_first_round(tmp_path, tiny_checkpoint, policy, groups_path):
    rows = pq.read_table(groups_path).to_pylist()
    raised = [row | {"rewards": [reward + 3 for reward in row["rewards"]]} for row in rows]
    pq.write_table(pa.Table.from_pylist(raised), tmp_path / "first.parquet")
    how = {"objective_parameters": {"beta": 0.5, "log_z0": "auto"}}
    spec = later_round(tmp_path, tiny_checkpoint, policy, groups_path, "rao", **how)
    first = spec.model_copy(update={"calibration_path": tmp_path / "first.parquet"})
    assert OfflineAlignment(spec).objective.log_z0 == pytest.approx(0.0)
    assert OfflineAlignment(first).objective.log_z0 == pytest.approx(6.0)


def test_mismatched_pairs_of_kto_are_compared_with_the_reference(tmp_path, tiny_checkpoint, policy, groups_path):
    spec = later_round(tmp_path, tiny_checkpoint, policy, groups_path, "kto")
    found = []
    for of in (spec, spec.model_copy(update={"model_dir": tiny_checkpoint})):
        task = KTOAlignment(of)
        task.prepare(task.load())
        found.append(task.mismatched_reference)
    assert found[0] == pytest.approx(found[1], abs=1e-4)
