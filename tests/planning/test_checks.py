"""What a node of a run is checked for, and only that; each problem is one sentence that names the parameter."""

import pytest
from kedro.io import DataCatalog
from plans import data_parameters, planned_run, planned_step, training_parameters

from rao_kedro.config.alignment import MethodParameters
from rao_kedro.config.data_engineering import ModelParameters
from rao_kedro.config.generation import GenerationParameters
from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.rounds import RoundsParameters
from rao_kedro.config.servers import JudgeParameters, ServerParameters
from rao_kedro.errors import PlanError
from rao_kedro.evals.downstream.parameters import HarnessParameters
from rao_kedro.evals.parameters import AnsweredBenchmarks
from rao_kedro.planning import checks, files, judges
from rao_kedro.planning.steps import Run


def test_variables_that_the_chat_template_does_not_read_are_refused_once_the_model_is_there(tiny_checkpoint):
    from rao_kedro.datasets import CheckpointDataset

    catalog = DataCatalog({"base_model": CheckpointDataset(filepath=str(tiny_checkpoint))})

    def refused(*makes, **kwargs):
        how = GenerationParameters(chat_template_kwargs=kwargs)
        known = Run((planned_step("prepare_base_model", outputs=makes),), catalog)
        return list(checks._template_problems(known, planned_step("generate_responses", generation=how)))

    assert refused() == refused("base_model", enable_thinkin=False) == []
    (sentence,) = refused(enable_thinkin=False)
    assert sentence.startswith("parameter generation.chat_template_kwargs: the chat template in ")
    assert "does not read enable_thinkin" in sentence


def test_options_of_an_engine_that_this_machine_cannot_give_are_refused(monkeypatch, tmp_path):
    from rao_kedro.generation import engine_options

    monkeypatch.setattr(engine_options, "visible_gpus", lambda: [])

    def of_generation(**how):
        return list(checks._engine_problems("evaluation.generation", GenerationParameters(**how)))

    def of_judge(**engine):
        return list(judges.asked_problems("judge", {"model": str(tmp_path), "engine": engine}))[1:]

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(judges, "find_spec", lambda name: object())
    assert of_generation() == of_generation(engine={"data_parallel_size": 2}) == of_judge(dtype="bfloat16") == []
    (sentence,) = of_generation(engine={"quantization": "fp8"})
    assert sentence.startswith("parameter evaluation.generation: engine.quantization is for GPUs")
    (sentence,) = of_generation(backend="vllm", engine={"lora_path": str(tmp_path)})
    assert "adapter_config.json" in sentence
    assert of_judge(quantization="fp8")[0].startswith("parameter judge: engine.quantization is for GPUs")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (sentence,) = of_generation(engine={"max_num_seqs": 8})  # which transformers does not have
    assert "engine.max_num_seqs: the backend transformers has no such option" in sentence


@pytest.mark.parametrize(
    ("function", "argument", "parameter"),
    [
        ("generate_responses", "generation", "generation"),
        ("collect_preferences", "sampled", "sampled.generation"),
        ("judge_methods", "judge", "judge"),
        ("train_ppo", "reward", "reward.parameters"),
    ],
)
def test_engines_take_no_more_gpus_than_there_are(function, argument, parameter, monkeypatch, tiny_checkpoint):
    monkeypatch.setattr("rao_kedro.generation.engine_options.visible_gpus", lambda: ["0", "1"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    how = {"backend": "vllm", "engine": {"tensor_parallel_size": 8}, "sampling": {"max_tokens": 48}}
    judge = {"model": str(tiny_checkpoint), "engine": how["engine"]}
    value = {
        "generation": GenerationParameters(**how),
        "sampled": data_parameters(generation=how | {"sampling": {"n": 2, "max_tokens": 48}}).sampled,
        "judge": JudgeParameters(**judge),
        "reward": RewardParameters(name="generative", parameters=judge),
    }[argument]
    given = {"source": "sampled", "n_evaluation_prompts": 20, "names": "mt_bench", argument: value}
    asked = planned_step(function, **given)
    known = {"evaluation__benchmarks": AnsweredBenchmarks(names="mt_bench"), "data__max_prompt_tokens": 8}
    found = list(
        checks._of_step(planned_run(asked, model=ModelParameters(source="tiny_random", name="tiny"), **known), asked)
    )
    said = f"parameter {parameter}: engine: tensor_parallel_size 8 needs 8 GPUs, and this process sees 2"
    assert any(sentence.startswith(said) for sentence in found), found


def test_served_models_are_checked_where_only_tasks_of_the_harness_are_chosen(monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    server = ServerParameters(model="m", base_url="https://api.example.com/v1", api_key_variable="NO_SUCH_KEY")
    monkeypatch.setattr(files, "_unknown_tasks", lambda tasks: ())
    given = {"names": "", "harness": HarnessParameters(tasks="ifeval"), "served_models": {"rao_seed_1": server}}
    asked = planned_step("answer_with_served_models", **given)
    name, key = checks._of_step(planned_run(asked), asked)
    assert "rao_seed_1 is the name of a method" in name and "NO_SUCH_KEY is not set" in key


def test_only_what_the_nodes_of_a_run_need_is_checked():
    judge = JudgeParameters(model="m", base_url="https://api.example.com/v1", api_key_variable="NO_SUCH_KEY")
    benchmarks = AnsweredBenchmarks(names="gsm8k")
    judged = planned_step("judge_methods", judge=judge, second_judge=None)
    assert list(checks._of_step(planned_run(judged, evaluation__benchmarks=benchmarks), judged)) == []
    chosen = AnsweredBenchmarks(names="mt_bench")
    (sentence,) = checks._of_step(planned_run(judged, evaluation__benchmarks=chosen), judged)
    assert "NO_SUCH_KEY is not set" in sentence
    assert list(checks._of_step(planned_run(), planned_step("plot_training"))) == []


def test_what_a_model_may_write_too_much_is_a_remark_and_no_refusal():
    how = {"max_new_tokens": 100, "samples_per_prompt": 2}
    method = MethodParameters(objective="ppo", training=training_parameters(max_tokens_per_batch=355), rollout=how)
    aligning = planned_step("align", name="ppo.train", method=method)
    (remark,) = checks._remarks(planned_run(data__max_prompt_tokens=256), aligning)
    assert remark.startswith(
        "ppo.train: a prompt and its rollout may have 356 tokens, more than max_tokens_per_batch (355)"
    )
    generation = GenerationParameters(sampling={"n": 2, "max_tokens": 100})
    known = planned_run(data__max_prompt_tokens=256, evaluation__generation=generation)
    (remark,) = checks._remarks(known, planned_step("score_responses", name="rao.score", max_tokens_per_batch=355))
    assert "a prompt and a response may have 356 tokens" in remark
    assert list(checks._remarks(known, planned_step("score_responses", max_tokens_per_batch=456))) == []


def test_one_response_makes_no_preference_and_a_backend_is_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    one = data_parameters(generation={"backend": "vllm", "max_model_len": 48, "sampling": {"n": 1, "max_tokens": 48}})
    given = {"source": "sampled", "sampled": one.sampled, "preferences": None, "n_evaluation_prompts": 20}
    collecting = planned_step("collect_preferences", **given)
    found = list(checks._of_step(planned_run(collecting), collecting))
    said = ("vLLM is not installed", "sampling.n is 1", "leaves no room")
    assert all(text in sentence for text, sentence in zip(said, found, strict=True))


@pytest.mark.parametrize(
    ("objective", "rollout", "models"),
    [
        ("dpo", {}, (1, 0, 0)),
        ("rao", {}, (1, 0, 0)),
        ("dro", {}, (2, 0, 0)),
        ("ppo", {"rollout": {"max_new_tokens": 4}}, (2, 2, 0)),  # with the reference and the reward model
        ("ppo", {"rollout": {"max_new_tokens": 4, "reward": {"name": "rules"}}}, (2, 1, 0)),
    ],
)
def test_a_value_network_is_a_second_trained_model(objective, rollout, models):
    method = MethodParameters(objective=objective, training=training_parameters(), **rollout)
    step = planned_step("align", method=method)
    (trained,) = checks.trainings(step)
    assert trained.models == models and step.samples_policy == (objective == "ppo")


def test_a_plan_error_is_an_error_of_parameters_data_and_models():
    from rao_kedro.errors import DataError, ModelError, ParameterError

    assert all(issubclass(PlanError, kind) for kind in (ParameterError, DataError, ModelError))


def test_a_round_is_given_an_engine_with_room_and_no_more_prompts_than_there_are():
    """8 training prompts of at most 256 tokens, and 48 tokens of a response."""

    def refused(**rounds):
        how = RoundsParameters(n=2, backend="transformers", sampling={"max_tokens": 48}, **rounds)
        run = planned_run(data=data_parameters(), data__max_prompt_tokens=256)
        return [*checks._of_step(run, planned_step("sample_responses", rounds=how))]

    assert refused(prompts_per_round=8) == refused(max_model_len=304) == []
    (sentence,) = refused(prompts_per_round=9)
    assert sentence == "parameter rounds.prompts_per_round is 9, and there are 8 training prompts: lower it"
    (sentence,) = refused(max_model_len=303)
    assert sentence.startswith("parameter rounds.max_model_len (303) is too small") and "set it to 304" in sentence
