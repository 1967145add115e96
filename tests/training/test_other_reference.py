"""Alignment whose policy starts from another checkpoint than the reference, as in all rounds but the first."""

import pytest
import torch
from groups import alignment_spec, log_of, parameters, reference, write_groups
from launching import IN_PROCESS

from rao_kedro.data.token_tables import read_groups
from rao_kedro.errors import TrainingError
from rao_kedro.models.chat_format import load_tokenizer
from rao_kedro.models.loading import load_causal_lm, save_checkpoint
from rao_kedro.models.logprobs import LogProbModel
from rao_kedro.models.packing import pack_groups
from rao_kedro.training.tasks.kto import KTOAlignment
from rao_kedro.workers import launch


@pytest.fixture(scope="module")
def started(tmp_path_factory, tiny_checkpoint):
    """Return a directory with groups and reference log-probs of the tiny checkpoint, and a policy that has left it."""
    directory = tmp_path_factory.mktemp("other_reference")
    reference(directory, tiny_checkpoint, write_groups(directory / "groups.parquet", 12))
    policy = load_causal_lm(tiny_checkpoint)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(3)
        for weight in policy.parameters():
            weight += 0.05 * torch.randn_like(weight)
    save_checkpoint(policy, load_tokenizer(tiny_checkpoint), directory / "policy")
    return directory


def spec_of(directory, tiny_checkpoint, name, workspace, **changes):
    training = parameters(epochs=1, learning_rate=1e-4, keep="last")
    spec = alignment_spec(directory, directory / "policy", directory / "groups.parquet", name, training=training)
    return spec.model_copy(update={"workspace": workspace, "reference_dir": tiny_checkpoint, **changes})


def test_log_ratios_are_to_the_reference_and_not_to_the_start(started, tmp_path, tiny_checkpoint):
    groups = list(read_groups(started / "groups.parquet", "validation"))
    with torch.no_grad():
        policy, known = (LogProbModel(load_causal_lm(path)) for path in (started / "policy", tiny_checkpoint))
        expected = (policy(pack_groups(groups)).responses - known(pack_groups(groups)).responses).mean(0)
    spec = spec_of(started, tiny_checkpoint, "dpo", tmp_path / "dpo")
    launch(spec, IN_PROCESS)
    before = log_of(spec.workspace)[1][0]
    assert before["eval_log_ratio_chosen"] == pytest.approx(float(expected[0]), abs=1e-3)
    assert abs(before["eval_log_ratio_chosen"]) > 0.05 and "eval_kl_to_reference" in before
    with pytest.raises(TrainingError, match="belong to other weights"):
        launch(spec.model_copy(update={"workspace": tmp_path / "start", "reference_dir": None}), IN_PROCESS)


def test_missing_log_probs_are_those_of_the_reference_too(started, tmp_path, tiny_checkpoint):
    logs = []
    for path in (started / "reference.parquet", None):
        spec = spec_of(started, tiny_checkpoint, "simpo", tmp_path / str(path and path.stem), reference_path=path)
        launch(spec, IN_PROCESS)
        logs.append(log_of(spec.workspace)[1])
    for with_table, without in zip(*logs, strict=True):
        for metric in ("eval_log_ratio_chosen", "eval_log_ratio_rejected"):
            assert without[metric] == pytest.approx(with_table[metric], abs=1e-4) and abs(without[metric]) > 0.05


def test_mismatched_pairs_of_kto_are_compared_with_the_reference(started, tmp_path, tiny_checkpoint):
    found = {}
    for name, start in (("policy", started / "policy"), ("reference", tiny_checkpoint)):
        task = KTOAlignment(spec_of(started, tiny_checkpoint, "kto", tmp_path / name, model_dir=start))
        task.prepare(task.load())
        found[name] = task.mismatched_reference
    assert found["policy"] == pytest.approx(found["reference"], abs=1e-4)
