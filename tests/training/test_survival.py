"""What a run survives: kills, damaged checkpoints, SIGTERM, a full disk."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from groups import alignment_spec, log_of, parameters, reference, write_groups
from launching import IN_PROCESS
from torch.distributed.checkpoint.filesystem import _FileSystemWriter

from rao_kedro import shards
from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.specs import AnnotationSpec, PolicyScoringSpec, TrainingSpec
from rao_kedro.errors import BusyError, TrainingError
from rao_kedro.files import only_one_in, write_text
from rao_kedro.models.loading import load_causal_lm
from rao_kedro.rewards.bradley_terry import BradleyTerry
from rao_kedro.training.progress import Progress
from rao_kedro.workers import launch


@pytest.fixture
def groups_path(tmp_path):
    return write_groups(tmp_path / "groups.parquet", 12)


@pytest.fixture
def uninterrupted(tmp_path, tiny_checkpoint, groups_path):
    """The weights of a run that nothing happens to."""
    launch(resumable_spec(tmp_path / "whole", tiny_checkpoint, groups_path), IN_PROCESS)
    return weights_of(tmp_path / "whole")


def weights_of(workspace):
    return load_causal_lm(workspace / "model").state_dict()


def assert_same(weights, others):
    for name, values in weights.items():
        assert torch.equal(values, others[name]), name


def resumable_spec(workspace, tiny_checkpoint, groups_path, **training):
    training = parameters(**{"epochs": 3, "checkpoint_every": 1, "keep": "last"} | training)
    return TrainingSpec(workspace=workspace, model_dir=tiny_checkpoint, groups_path=groups_path, training=training)


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, tiny_checkpoint, groups_path, killed_at_step_4, caplog):
    caplog.set_level("INFO", "rao_kedro")
    spec = resumable_spec(tmp_path / "killed", tiny_checkpoint, groups_path)
    with pytest.raises(KeyboardInterrupt):
        launch(spec, IN_PROCESS)
    launch(spec, IN_PROCESS)
    assert killed_at_step_4 == [1, 2, 3, 4, 4, 5, 6]
    said = [record.getMessage() for record in caplog.records if getattr(record, "notice", None) == "said"]
    assert said == ["goes on after step 3 of 6"]
    launch(resumable_spec(tmp_path / "whole", tiny_checkpoint, groups_path), IN_PROCESS)
    assert_same(weights_of(tmp_path / "whole"), weights_of(tmp_path / "killed"))
    assert len(log_of(tmp_path / "killed")[0]) == 6


def test_a_resumed_run_without_a_reference_still_compares_with_the_policy_before_its_first_update(
    tmp_path, tiny_checkpoint, groups_path, killed_at_step_4
):
    logs = []
    training = parameters(epochs=3, checkpoint_every=1, keep="last", learning_rate=1e-2)
    for name in ("killed", "whole"):
        spec = alignment_spec(tmp_path / name, tiny_checkpoint, groups_path, "simpo", training)
        spec = spec.model_copy(update={"reference_path": None})
        if name == "killed":
            with pytest.raises(KeyboardInterrupt):
                launch(spec, IN_PROCESS)
        launch(spec, IN_PROCESS)
        logs.append(log_of(spec.workspace)[1])
    killed, whole = logs
    assert abs(whole[-1]["eval_log_ratio_chosen"]) > 0.1
    assert [row["eval_log_ratio_chosen"] for row in killed] == [row["eval_log_ratio_chosen"] for row in whole]


@pytest.mark.parametrize("changed", ["parameters", "data"])
def test_a_checkpoint_of_another_run_is_not_resumed(tmp_path, tiny_checkpoint, groups_path, killed_at_step_4, changed):
    with pytest.raises(KeyboardInterrupt):
        launch(resumable_spec(tmp_path / "run", tiny_checkpoint, groups_path), IN_PROCESS)
    if changed == "data":
        write_groups(groups_path, 13)
    changes = {"learning_rate": 1e-3} if changed == "parameters" else {}
    launch(resumable_spec(tmp_path / "run", tiny_checkpoint, groups_path, **changes), IN_PROCESS)
    assert killed_at_step_4 == [1, 2, 3, 4, 1, 2, 3, 4, 5, 6]


def test_the_last_checkpoints_are_kept_and_a_finished_run_leaves_none(
    tmp_path, tiny_checkpoint, groups_path, killed_at_step_4
):
    spec = resumable_spec(tmp_path / "run", tiny_checkpoint, groups_path, checkpoints_kept=2)
    with pytest.raises(KeyboardInterrupt):
        launch(spec, IN_PROCESS)
    found = sorted(path.name for path in (spec.workspace / "checkpoints").iterdir())
    assert found == ["step-000000002", "step-000000003"]
    launch(spec, IN_PROCESS)
    assert not (spec.workspace / "checkpoints").exists()


@pytest.fixture
def steps(monkeypatch):
    """Lists the steps of all runs."""
    report, taken = Progress.report, []

    def noted(self, step, **kwargs):
        taken.append(step)
        report(self, step, **kwargs)

    monkeypatch.setattr(Progress, "report", noted)
    return taken


@pytest.mark.parametrize("changed", ["nothing", "parameters", "data", "start", "model", "log"])
def test_a_finished_run_is_not_trained_again_unless_its_inputs_or_outputs_are_others(
    tmp_path, tiny_checkpoint, groups_path, steps, changed, caplog
):
    start = shutil.copytree(tiny_checkpoint, tmp_path / "start")
    spec = resumable_spec(tmp_path / "run", start, groups_path)
    launch(spec, IN_PROCESS)
    steps.clear()
    match changed:
        case "parameters":
            spec = resumable_spec(tmp_path / "run", start, groups_path, learning_rate=1e-3)
        case "data":
            write_groups(groups_path, 13)
        case "start":
            (start / "generation_config.json").write_text('{"eos_token_id": [0, 1]}')
        case "model":
            (spec.workspace / "model/config.json").write_text("{}")
        case "log":
            (spec.workspace / "training_log.jsonl").unlink()
    with caplog.at_level("INFO"):
        launch(spec, IN_PROCESS)
    assert steps == ([] if changed == "nothing" else [1, 2, 3, 4, 5, 6])
    assert ("sft is finished in" in caplog.text) == (changed == "nothing")


def test_a_kill_before_the_end_of_a_run_is_noted_repeats_its_last_steps_only(
    tmp_path, tiny_checkpoint, groups_path, uninterrupted, steps, monkeypatch
):
    spec = resumable_spec(tmp_path / "run", tiny_checkpoint, groups_path)

    def killed(path, text):
        if "finished" in path.name:
            raise KeyboardInterrupt
        write_text(path, text)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(shards, "write_text", killed)
        launch(spec, IN_PROCESS)
    steps.clear()
    launch(spec, IN_PROCESS)
    assert steps == [6] and not (spec.workspace / "checkpoints").exists()
    assert_same(uninterrupted, weights_of(spec.workspace))


def test_finished_annotations_and_policy_scores_are_not_computed_again(
    tmp_path, tiny_checkpoint, tiny_reward_model, groups_path, monkeypatch
):
    reward = RewardParameters(parameters={"model_dir": str(tiny_reward_model), "mixed_precision": "no"})
    generations = [
        {
            "prompt_id": f"p{i}",
            "messages": [{"role": "user", "content": "fox"}],
            "requirements": "[]",
            "response": "dog",
            "finish_reason": "stop",
            "prompt_ids": [1, 10, 11],
            "response_ids": [12, 2],
        }
        for i in range(2)
    ]
    pq.write_table(pa.Table.from_pylist(generations), tmp_path / "generations.parquet")
    common = {"workspace": tmp_path / "work", "groups_path": groups_path, "reward": reward}
    specs = {
        "annotate": AnnotationSpec(**common, output_path=tmp_path / "rewards.parquet"),
        "score_policy": PolicyScoringSpec(
            **common,
            model_dir=tiny_checkpoint,
            mixed_precision="no",
            output_path=tmp_path / "scores.parquet",
            generations_path=tmp_path / "generations.parquet",
            reference_dir=tiny_checkpoint,
            reference_path=reference(tmp_path, tiny_checkpoint, groups_path),
            held_out_path=tmp_path / "held_out.parquet",
        ),
    }
    for spec in specs.values():
        launch(spec, IN_PROCESS)
    scored = []
    annotate = BradleyTerry.annotate
    monkeypatch.setattr(BradleyTerry, "annotate", lambda *args: scored.append(1) or annotate(*args))
    for spec in specs.values():
        launch(spec, IN_PROCESS)
    assert not scored
    specs["score_policy"].held_out_path.unlink()
    launch(specs["score_policy"], IN_PROCESS)
    assert len(scored) == 1 and specs["score_policy"].held_out_path.exists()


@pytest.mark.parametrize("damage", ["flipped byte", "missing file", "no manifest", "half-written", "old format"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    tmp_path, tiny_checkpoint, groups_path, uninterrupted, killed_at_step_4, caplog, damage
):
    spec = resumable_spec(tmp_path / "run", tiny_checkpoint, groups_path)
    with pytest.raises(KeyboardInterrupt):
        launch(spec, IN_PROCESS)
    newest = spec.workspace / "checkpoints/step-000000003"
    match damage:
        case "flipped byte":
            content = bytearray((newest / "__0_0.distcp").read_bytes())
            content[len(content) // 2] ^= 1
            (newest / "__0_0.distcp").write_bytes(content)
        case "missing file":
            (newest / "random-00000.json").unlink()
        case "no manifest":
            (newest / "manifest.json").unlink()
        case "half-written":
            newest.rename(newest.with_name("step-000000003.partial"))
        case "old format":
            manifest = json.loads((newest / "manifest.json").read_text())
            del manifest["writer"]
            (newest / "manifest.json").write_text(json.dumps(manifest))
    launch(spec, IN_PROCESS)
    assert killed_at_step_4 == [1, 2, 3, 4, 3, 4, 5, 6]
    assert ("skipped checkpoint" in caplog.text) == (damage != "half-written")
    assert_same(uninterrupted, weights_of(spec.workspace))


def test_sigterm_saves_a_checkpoint_and_stops_with_a_sentence(
    tmp_path, tiny_checkpoint, groups_path, uninterrupted, monkeypatch
):
    report = Progress.report

    def terminated(self, step, **kwargs):
        report(self, step, **kwargs)
        os.kill(os.getpid(), signal.SIGTERM)

    spec = resumable_spec(tmp_path / "run", tiny_checkpoint, groups_path, checkpoint_every=0)
    monkeypatch.setattr(Progress, "report", terminated)
    for step in (1, 2):  # the second is the last of its epoch
        with pytest.raises(TrainingError, match=f"stopped by SIGTERM after step {step}: the same command resumes"):
            launch(spec, IN_PROCESS)
    monkeypatch.setattr(Progress, "report", report)
    launch(spec, IN_PROCESS)
    assert_same(uninterrupted, weights_of(spec.workspace))
    assert len(log_of(spec.workspace)[0]) == 6


def test_a_full_disk_leaves_the_last_good_checkpoint(
    tmp_path, tiny_checkpoint, groups_path, uninterrupted, monkeypatch
):
    write = _FileSystemWriter.write_data

    def full(self, plan, planner):
        if "step-000000003" in str(self.path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, plan, planner)

    spec = resumable_spec(tmp_path / "run", tiny_checkpoint, groups_path)
    monkeypatch.setattr(_FileSystemWriter, "write_data", full)
    with pytest.raises(TrainingError, match=r"checkpoint of step 3 could not be written .*No space left"):
        launch(spec, IN_PROCESS)
    found = sorted(path.name for path in (spec.workspace / "checkpoints").iterdir())
    assert found == ["step-000000001", "step-000000002"]
    monkeypatch.setattr(_FileSystemWriter, "write_data", write)
    launch(spec, IN_PROCESS)
    assert_same(uninterrupted, weights_of(spec.workspace))


def test_two_runs_do_not_work_in_one_workspace(tmp_path, tiny_checkpoint, groups_path):
    spec = resumable_spec(tmp_path / "run", tiny_checkpoint, groups_path)
    spec.workspace.mkdir()
    for role in ("worker", "launcher"):  # a worker may have outlived its launcher
        with (
            only_one_in(spec.workspace, role),
            pytest.raises(BusyError, match=r"another run is at work in .*run"),
        ):
            launch(spec, IN_PROCESS)


@pytest.mark.slow
def test_sigkill_at_any_moment_and_the_same_command_gives_the_same_weights(
    tmp_path, tiny_checkpoint, groups_path, uninterrupted
):
    spec = resumable_spec(tmp_path / "run", tiny_checkpoint, groups_path)
    spec.workspace.mkdir()
    (spec.workspace / "spec.json").write_text(spec.model_dump_json())
    command = [sys.executable, "-m", "rao_kedro.training.tasks.sft", str(spec.workspace / "spec.json")]
    log = spec.workspace / "training_log.jsonl"
    for steps in (2, 4):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None and not (log.exists() and log.read_text().count('"grad_norm"') >= steps):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert_same(uninterrupted, weights_of(spec.workspace))
