"""What a plan takes for what nobody has counted or measured yet, and what wins over it."""

from pathlib import Path

import pytest
from kedro.io import DataCatalog, MemoryDataset
from plans import planned_run, planned_step, training_parameters

from rao_kedro.config.alignment import MethodParameters
from rao_kedro.config.data_engineering import DataParameters
from rao_kedro.config.planning import PlanningParameters
from rao_kedro.config.training import LoRAParameters
from rao_kedro.planning import assumed, machine, models, size, table
from rao_kedro.planning.steps import Run

FSDP = machine.read_launch(Path(__file__).parents[2] / "conf/accelerate/fsdp2.yaml")  # eight GPUs
N = 10**9
GROUPS = {"train": 1000, "held_out": 100, "prompt_tokens": 100, "response_tokens": 200, "source": "a card"}
GPU = {"training_tflops": 100, "scoring_tflops": 250, "source": "a bench"}


def data(source="preferences", **more):
    row = {"hub_id": "a/b"}
    limits = {"max_prompt_tokens": 256, "max_response_tokens": 256, "evaluation_prompts": 70}
    preferences = {"train": row, "test": row} if source == "preferences" else None
    return DataParameters(source=source, preferences=preferences, **limits, **more)


def run_of(**planning):
    known = PlanningParameters(**({"weights": N, "groups": GROUPS, "gpu": GPU} | planning))
    model = models.ModelParameters(source="checkpoint", name="a/b")
    return planned_run(data=data(), planning=known, model=model)


def method(objective, **more):
    return MethodParameters(**({"objective": objective, "training": training_parameters(batch_size=128)} | more))


def sized(function, run=None, launch=FSDP, **given):
    run = run or run_of()
    return size.size_of(run, planned_step(function, datasets={"groups": "tokenized_groups@path"}, **given), launch)


def test_a_training_takes_six_flops_per_weight_and_token_on_all_gpus():
    """1000 groups of 100 + 2 x 200 tokens: 500,000 tokens x 6 x 1e9 FLOP at 8 x 100 TFLOP/s are 3.75 s."""
    found = sized("align", method=method("rao"))
    assert (found.rows, found.tokens, found.steps) == (1000, 500_000, 8)
    assert found.seconds == pytest.approx(3.75)
    assert found.assumed == {"rows", "tokens", "steps", "seconds", "memory", "disk"} and not found.at_least


def test_the_value_network_of_dro_reads_prompts_only():
    """100,000 of the 500,000 tokens are prompts: a fifth more, on two models."""
    found, one = sized("align", method=method("dro")), sized("align", method=method("rao"))
    assert found.seconds == pytest.approx(3.75 * 1.2) and found.memory == 2 * one.memory


def test_weights_under_adapters_take_four_flops_and_ppo_is_at_least_its_updates():
    """4 passes over 1000 prompts of 100 and rollouts of 50 tokens, policy and value network: 2 x 4 x 1e9 x 600,000."""
    lora = training_parameters(batch_size=128, lora=LoRAParameters())
    found = sized("align", method=method("ppo", training=lora, rollout={"max_new_tokens": 50}))
    assert (found.tokens, found.steps, found.at_least) == (600_000, 32, True)
    assert found.seconds == pytest.approx(2 * 4 * 1e9 * 600_000 / 800e12)


def test_passes_take_two_flops_and_hold_one_model():
    """1100 groups of 500 tokens: 550,000 x 2 x 1e9 FLOP at 8 x 250 TFLOP/s are 0.55 s."""
    reference = type("Reference", (), {"mixed_precision": "bf16_weights"})
    found = sized("score_reference", parameters=reference)
    assert (found.rows, found.tokens, found.memory) == (1100, 550_000, 2 * N)
    assert found.seconds == pytest.approx(0.55)


def test_held_out_prompts_are_those_that_are_reported():
    """70 are asked for; at most half of the 100 are reported."""
    sampling = type("Generation", (), {"sampling": type("S", (), {"n": 2, "max_tokens": 10})})
    found = sized("generate_responses", generation=sampling)
    assert (found.rows, found.tokens, found.seconds) == (100, 1000, None)


@pytest.mark.parametrize(
    ("planning", "known"),
    [
        ({"gpu": None}, {"tokens": 500_000, "seconds": None}),
        ({"groups": None}, {"rows": None, "tokens": None, "seconds": None, "memory": 2 * N}),
        ({"weights": None}, {"tokens": 500_000, "memory": None, "seconds": None}),
    ],
)
def test_what_no_figure_gives_stays_unknown(planning, known):
    found = sized("align", run_of(**planning), method=method("rao"))._asdict()
    assert {name: found[name] for name in known} == known


def test_without_gpus_no_gpus_speed_is_taken():
    assert sized("align", launch=FSDP._replace(on_cpu=True), method=method("rao")).seconds is None
    assert sized("align", launch=None, method=method("rao")).seconds is None


def test_sampled_responses_have_no_declared_groups():
    sampled = {"train_prompts": 8, "generation": {"sampling": {"n": 2, "max_tokens": 10}}}
    run = planned_run(data=data("sampled", sampled=sampled), planning=PlanningParameters(groups=GROUPS))
    assert assumed.assumed_groups(run) is None


def test_a_run_without_the_parameter_assumes_nothing():
    run = Run((), DataCatalog({"params:data": MemoryDataset(data())}))
    assert run.planning() == PlanningParameters() and assumed.assumed_groups(run) is None


def test_the_table_marks_what_is_assumed_and_says_from_where():
    ppo = method("ppo", rollout={"max_new_tokens": 50})
    steps = [
        planned_step("align", name=f"{name}.train", method=of) for name, of in (("ppo", ppo), ("rao", method("rao")))
    ]
    cells = [table._cells(step, size.size_of(run_of(), step, FSDP)) for step in steps]
    assert cells[1][:4] == ["~1,000", "~500 k", "~8", "~2.0 GB"] and cells[1][5] == "~4 s"
    assert cells[0][5].startswith(">")
    lines = [*assumed.sources(run_of(), 80)]
    assert max(map(len, lines)) <= 80
    assert "1,000 + 100 groups" in lines[0] and any("a bench" in line for line in lines)
