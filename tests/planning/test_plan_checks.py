"""What a plan is refused for, check by check: each as one sentence that names the parameter or the file."""

import json
import shutil
import socket
from pathlib import Path

import pytest
from kedro.io import DataCatalog, MemoryDataset

from rao_kedro.config.alignment import MethodParameters
from rao_kedro.config.benchmarks import AnsweredBenchmarks, HarnessParameters, JudgeParameters, ServerParameters
from rao_kedro.config.data_engineering import DataParameters, PreferenceFiles, PreferenceSource
from rao_kedro.config.generation import GenerationParameters
from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.specs import ModelParameters
from rao_kedro.config.training import LoRAParameters, TrainingParameters
from rao_kedro.data.readers import read_rows
from rao_kedro.errors import PlanError
from rao_kedro.planning import checks, files, judges, lengths, machine, models
from rao_kedro.planning.steps import Run, Step

ROOT = Path(__file__).parents[2]


def data(prompt=256, response=128, **sampled):
    sampling = {"n": 4, "max_tokens": 48}
    how = {"train_prompts": 8, "generation": {"sampling": sampling}} | sampled
    lengths_ = {"max_prompt_tokens": prompt, "max_response_tokens": response, "evaluation_prompts": 20}
    return DataParameters(source="sampled", sampled=how, **lengths_)


def run(*steps, **parameters):
    """A run of some steps, with parameters by their names."""
    named = {f"params:{name.replace('__', '.')}": MemoryDataset(value) for name, value in parameters.items()}
    return Run(steps, DataCatalog(named))


def step(function, name="node", datasets=None, outputs=(), **given):
    return Step(name, function, given, {argument: argument for argument in given}, datasets or {}, outputs)


def training(**how):
    return TrainingParameters(learning_rate=1e-5, **how)


# Lengths


@pytest.mark.parametrize(
    ("function", "given", "needed"),
    [
        ("train_sft", {"training": training()}, 256 + 48),
        ("train_reward_model", {"training": training()}, 256 + 4 * 48),
        ("align", {"method": MethodParameters(objective="rao", training=training())}, 256 + 4 * 48),
        ("align", {"method": MethodParameters(objective="dpo", training=training())}, 256 + 2 * 48),
        ("align", {"method": MethodParameters(objective="dpo", training=training(), pairs="all")}, 256 + 4 * 48),
        (
            "align",
            {"method": MethodParameters(objective="rao", training=training(), responses_per_prompt=3)},
            256 + 3 * 48,
        ),
    ],
)
def test_a_pack_must_hold_the_longest_group_that_the_parameters_allow(function, given, needed):
    def refused(room):
        argument, value = next(iter(given.items()))
        of_training = {"max_tokens_per_batch": room}
        value = (
            value.model_copy(update=of_training)
            if argument == "training"
            else value.model_copy(update={"training": value.training.model_copy(update=of_training)})
        )
        return list(lengths.pack_problems(run(data=data()), step(function, **{argument: value})))

    assert refused(needed) == []
    (sentence,) = refused(needed - 1)
    assert f"max_tokens_per_batch is {needed - 1}, and a group may have {needed} tokens" in sentence
    assert "data.max_prompt_tokens (256)" in sentence and f"raise it to {needed}" in sentence


def test_groups_that_are_known_count_and_not_what_might_be(tmp_path):
    import pandas as pd

    rows = [("a", "train", 10, (5, 7, 20)), ("b", "validation", 8, (3, 3)), ("c", "test", 30, (60, 1))]
    table = [
        {
            **{"group_id": name, "split": split, "prompt_ids": [1] * n, "response_ids": [[1] * k for k in ks]},
            **{"chosen": 1, "rejected": 0},
        }
        for name, split, n, ks in rows
    ]
    pd.DataFrame(table).to_parquet(tmp_path / "groups.parquet")
    (first, *_) = lengths.read_groups(tmp_path / "groups.parquet")
    assert first.responses == (7, 5, 20) and first.tokens(None) == 42 and first.tokens(1) == 17
    from rao_kedro.datasets import PathDataset

    known = Run((), DataCatalog({"tokenized_groups@path": PathDataset(filepath=str(tmp_path / "groups.parquet"))}))
    read = {"groups": "tokenized_groups@path"}

    def refused(function, room, **given):
        given = given or {"training": training(max_tokens_per_batch=room)}
        return list(lengths.pack_problems(known, step(function, datasets=read, **given)))

    assert refused("train_sft", 17) == [] and refused("train_reward_model", 42) == []
    assert "group a has 17 tokens" in refused("train_sft", 16)[0]
    assert "group a has 42 tokens" in refused("train_reward_model", 41)[0]
    assert refused("score_responses", 0, max_tokens_per_batch=91) == []  # reads the part `test`
    assert "group c has 91 tokens" in refused("score_responses", 0, max_tokens_per_batch=90)[0]


@pytest.mark.parametrize(
    ("length", "prompt", "refused"), [(304, None, False), (303, None, True), (303, 255, False), (302, 255, True)]
)
def test_an_engine_must_hold_the_longest_prompt_and_what_is_written(length, prompt, refused):
    how = GenerationParameters(max_model_len=length, sampling={"max_tokens": 48})
    found = list(lengths.room_problems(run(data__max_prompt_tokens=256), "evaluation.generation", how, prompt))
    assert bool(found) == refused
    if refused:
        wanted = 48 + (prompt or 256)
        assert found[0].startswith(f"parameter evaluation.generation.max_model_len ({length}) is too small")
        assert found[0].endswith(f"set it to {wanted} or more")


def test_benchmarks_need_room_for_a_prompt_where_they_are_chosen():
    how = {"max_model_len": 1024, "alpaca_eval": {"max_tokens": 2048}, "mt_bench": {"max_tokens": 1023}}
    assert list(lengths.benchmark_problems(AnsweredBenchmarks(names="mt_bench gsm8k", **how))) == []
    (sentence,) = lengths.benchmark_problems(AnsweredBenchmarks(names="alpaca_eval mt_bench", **how))
    assert "evaluation.benchmarks.alpaca_eval.max_tokens (2048)" in sentence


def test_vllm_refuses_more_tokens_than_a_model_has_positions_for(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    shutil.copytree(tiny_checkpoint, tmp_path / "model")
    of = {"model": ModelParameters(source="checkpoint", name=str(tmp_path / "model"))}
    known = Run((), DataCatalog({"params:model": MemoryDataset(of["model"]), "base_model": MemoryDataset()}))
    assert models.facts(known).positions == 2048
    assert list(lengths.position_problems(known, "x.max_model_len", 2048, "auto")) == []
    assert list(lengths.position_problems(known, "x.max_model_len", 4096, "transformers")) == []
    (sentence,) = lengths.position_problems(known, "x.max_model_len", 2049, "auto")
    assert "parameter x.max_model_len (2049) is more than the 2048 tokens" in sentence
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1")
    assert list(lengths.position_problems(known, "x.max_model_len", 4096, "vllm")) == []


def test_what_all_prompts_share_is_shorter_than_a_prompt():
    assert list(lengths.t0_problems(25, 24)) == []
    assert "every prompt would be dropped" in next(lengths.t0_problems(24, 24))


# Models


def test_the_weights_of_a_checkpoint_are_counted_without_loading_it(tiny_checkpoint):
    from transformers import AutoModelForCausalLM

    n = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(tiny_checkpoint).parameters())
    assert models._facts_of_checkpoint(tiny_checkpoint) == models.ModelFacts(n, 2048)
    assert models._positions({"max_position_embeddings": 9, "rope_scaling": {"type": "yarn", "factor": 4.0}}) is None


def test_a_model_that_is_not_there_or_not_whole_is_refused_and_one_of_the_hub_is_not(tiny_checkpoint, tmp_path):
    def found(name, **options):
        return list(models.checkpoint_problems("model.name", str(name), **options))

    shutil.copytree(tiny_checkpoint, tmp_path / "model")
    assert found(tmp_path / "model", base=True) == []
    for file in [*(tmp_path / "model").glob("tokenizer*")]:
        file.rename(tmp_path / file.name)
    assert "has no tokenizer" in found(tmp_path / "model")[0]
    for file in [*tmp_path.glob("tokenizer*")]:
        file.rename(tmp_path / "model" / file.name)
    (tmp_path / "model/model.safetensors").write_bytes(b"version https://git-lfs")
    assert "is a Git LFS pointer" in found(tmp_path / "model")[0]
    (tmp_path / "model/model.safetensors").unlink()
    assert "it needs a config.json and *.safetensors files" in found(tmp_path / "model")[0]
    assert "is neither a directory nor a name of the hub" in found("models/of/mine")[0]
    settings = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps(settings | {"architectures": ["BertModel"]}))
    shutil.copy(tiny_checkpoint / "model.safetensors", tmp_path / "model")
    assert "no causal language model" in found(tmp_path / "model", base=True)[0]
    assert found(tmp_path / "model") == []


def test_a_hub_name_is_refused_only_where_the_hub_is_off_limits_and_nothing_was_downloaded(monkeypatch):
    monkeypatch.setattr(models, "_offline", lambda: False)
    assert list(models.checkpoint_problems("model.name", "nobody/nothing")) == []
    monkeypatch.setattr(models, "_offline", lambda: True)
    (sentence,) = models.checkpoint_problems("model.name", "nobody/nothing")
    assert "HF_HUB_OFFLINE is set" in sentence
    monkeypatch.setattr(models, "_is_cached", lambda name, revision: True)
    assert list(models.checkpoint_problems("model.name", "nobody/nothing")) == []


def test_a_chat_template_is_there_and_has_a_syntax(tmp_path):
    path = tmp_path / "chat.jinja"

    def found():
        return list(models.base_model_problems(ModelParameters(source="tiny_random", name="t", chat_template=path)))

    assert found() == [f"parameter model.chat_template: there is no file {path}"]
    path.write_text("{% for m in messages %}{{ m.content }}")
    assert f"{path}, line 1: Unexpected end of template" in found()[0]
    path.write_text("{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}")
    assert found() == []


def test_variables_that_the_chat_template_does_not_read_are_refused_once_the_model_is_there(tiny_checkpoint):
    from rao_kedro.datasets import CheckpointDataset

    catalog = DataCatalog({"base_model": CheckpointDataset(filepath=str(tiny_checkpoint))})

    def refused(*makes, **kwargs):
        how = GenerationParameters(chat_template_kwargs=kwargs)
        known = Run((step("prepare_base_model", outputs=makes),), catalog)
        return list(checks._template_problems(known, step("generate_responses", generation=how)))

    assert refused() == refused("base_model", enable_thinkin=False) == []
    (sentence,) = refused(enable_thinkin=False)
    assert sentence.startswith("parameter generation.chat_template_kwargs: the chat template in ")
    assert "does not read enable_thinkin" in sentence


def test_a_package_with_a_model_is_installed():
    (sentence,) = models.base_model_problems(ModelParameters(source="gguf_package", name="no_such_model"))
    assert "no package 'no_such_model' is installed" in sentence


# Files


def test_preference_data_are_there_and_their_first_row_can_be_read(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    (tmp_path / "test.parquet").write_text("no parquet")
    sources = {"train": {"path": str(tmp_path / "train.jsonl")}, "test": {"path": str(tmp_path / "test.parquet")}}
    (sentence,) = files.preference_problems(PreferenceFiles(**sources))
    assert sentence.startswith("parameter data.preferences.test.path: ") and "is not what its ending says" in sentence
    skipping = PreferenceSource(path=str(tmp_path / "train.jsonl"), skip_rows=1)
    assert "has no row after the 1 of data.preferences.train.skip_rows" in next(
        files.source_problems("data.preferences.train", skipping)
    )
    assert "there is no such file" in next(files.source_problems("x", PreferenceSource(path="nowhere.jsonl")))
    hub = PreferenceFiles(train={"hub_id": "a/b"}, test={"hub_id": "a/b"})
    assert list(files.preference_problems(hub)) == []


def test_there_are_as_many_prompts_as_are_asked_for(tmp_path):
    from kedro_datasets.pandas import JSONDataset

    path = tmp_path / "prompts.jsonl"
    splits = ["train"] * 8 + ["test"] * 36
    path.write_text("".join(json.dumps({"prompt_id": str(i), "split": split}) + "\n" for i, split in enumerate(splits)))
    known = Run((), DataCatalog({"prompts": JSONDataset(filepath=str(path), load_args={"lines": True})}))
    assert list(files.prompt_problems(known, data().sampled, 20)) == []
    (sentence,) = files.prompt_problems(known, data(train_prompts=9).sampled, 20)
    assert sentence.startswith("prompts: split train has 8 prompts, and 9 are asked for")
    (sentence,) = files.prompt_problems(known, data().sampled, 21)
    assert sentence.startswith("prompts: split test has 36 prompts, and 37 are asked for")
    path.write_text("{")
    assert f"{path} cannot be read as prompts" in next(files.prompt_problems(known, data().sampled, 20))


def test_a_large_file_is_opened_and_not_read(tmp_path, monkeypatch):
    (tmp_path / "rows.json").write_text("[]")
    source = PreferenceSource(path=str(tmp_path / "rows.json"))
    assert len(list(files.source_problems("x", source))) == 1
    monkeypatch.setattr(files, "LARGE", 1)
    monkeypatch.setattr(files, "read_rows", lambda source: pytest.fail("it was read") or read_rows(source))
    assert list(files.source_problems("x", source)) == []


def test_files_of_benchmarks_that_are_chosen_are_there(tmp_path):
    (tmp_path / "there").write_text("[]")
    there, gone = str(tmp_path / "there"), str(tmp_path / "gone")
    how = {
        "alpaca_eval": {"baseline": gone, "instruction_difficulty": None, "gamed": "hf://datasets/x/y.csv"},
        "mt_bench": {"questions": there, "reference_answers": gone, "judge_prompts": gone},
        "sources": {"gsm8k": {"path": gone}, "mmlu": {"path": str(tmp_path)}},
    }

    def named(names, judged):
        found = files.benchmark_problems(AnsweredBenchmarks(names=names, **how), judged)
        return [sentence.split(": ")[0].rpartition("benchmarks.")[2] for sentence in found]

    assert named("arc_easy", True) == []
    assert named("mt_bench", False) == []
    assert named("mt_bench", True) == ["mt_bench.reference_answers", "mt_bench.judge_prompts"]
    assert named("alpaca_eval gsm8k mmlu", True) == ["alpaca_eval.baseline", "sources.gsm8k.path"]


def test_tasks_of_the_harness_and_their_local_rows_are_known_before_anything_runs(tmp_path):
    (tmp_path / "there.jsonl").write_text("{}")
    there, gone = str(tmp_path / "there.jsonl"), str(tmp_path / "gone.jsonl")
    rows = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"train": there, "test": [gone]}}}
    datasets = {"hellaswag": {"dataset_path": str(tmp_path / "copy")}, "ifevall": rows}
    chosen = AnsweredBenchmarks(harness={"tasks": "hellaswag ifevall", "datasets": datasets})
    copy, file, task = files.benchmark_problems(chosen, judged=False)
    assert copy.startswith("parameter evaluation.benchmarks.harness.datasets.hellaswag.dataset_path: there is no ")
    assert file.endswith(f"harness.datasets.ifevall.dataset_kwargs.data_files: there is no file {gone}")
    assert "harness.tasks: lm-evaluation-harness has no task 'ifevall' (did you mean: ifeval" in task


# Judges


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:8000/v1", None),
        ("http://localhost:8000/v1", None),
        ("http://gpu7:8000/v1", None),
        ("https://judge.mine.internal/v1", None),
        ("http://192.168.3.4:8000/v1", None),
        ("http://judge.example.com:8000/v1", None),
        ("https://api.openai.com/v1", "api.openai.com wants a key, and the environment variable MY_KEY is not set"),
        ("judge.example.com/v1", "is no address of a server"),
        ("ftp://judge.example.com/v1", "is no address of a server"),
        ("http://:8000/v1", "is no address of a server"),
        ("http://judge:80000/v1", "it is no address"),
        ("http://judge:0/v1", "is no address of a server"),
        ("https://me:secret@judge.example.com/v1", "it holds credentials"),
    ],
)
def test_an_address_is_one_of_a_server_without_credentials_and_its_key_is_there(url, said, monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    asked = {"model": "m", "base_url": url, "api_key_variable": "MY_KEY"}
    found = list(judges.asked_problems("evaluation.benchmarks.judge", asked))
    assert (found == []) if said is None else (len(found) == 1 and said in found[0] and "secret" not in found[0])
    monkeypatch.setenv("MY_KEY", "k")
    if said and "wants a key" in said:
        assert list(judges.asked_problems("evaluation.benchmarks.judge", asked)) == []


def test_a_judge_that_is_served_here_needs_vllm_and_its_model(monkeypatch):
    monkeypatch.setattr(judges, "find_spec", lambda name: None)
    found = list(judges.asked_problems("x", {"model": "nowhere/at/all"}))
    assert "vLLM would serve nowhere/at/all here, and is not installed" in found[0]
    assert "parameter x.model: 'nowhere/at/all' is neither a directory" in found[1]


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
        "sampled": data(generation=how | {"sampling": {"n": 2, "max_tokens": 48}}).sampled,
        "judge": JudgeParameters(**judge),
        "reward": RewardParameters(name="generative", parameters=judge),
    }[argument]
    given = {"source": "sampled", "n_evaluation_prompts": 20, "names": "mt_bench", argument: value}
    asked = step(function, **given)
    known = {"evaluation__benchmarks": AnsweredBenchmarks(names="mt_bench"), "data__max_prompt_tokens": 8}
    found = list(checks._of_step(run(asked, model=ModelParameters(source="tiny_random", name="tiny"), **known), asked))
    said = f"parameter {parameter}: engine: tensor_parallel_size 8 takes 8 GPUs, and 2 can be seen here"
    assert any(sentence.startswith(said) for sentence in found), found


def test_served_models_are_checked_where_only_tasks_of_the_harness_are_chosen(monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    server = ServerParameters(model="m", base_url="https://api.example.com/v1", api_key_variable="NO_SUCH_KEY")
    monkeypatch.setattr(files, "_unknown_tasks", lambda tasks: ())
    given = {"names": "", "harness": HarnessParameters(tasks="ifeval"), "served_models": {"rao_seed_1": server}}
    asked = step("answer_with_served_models", **given)
    name, key = checks._of_step(run(asked), asked)
    assert "rao_seed_1 is the name of a method" in name and "NO_SUCH_KEY is not set" in key


def test_a_server_that_is_away_is_a_remark_and_no_refusal():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    asked = {"model": "m", "base_url": f"http://127.0.0.1:{port}/v1"}
    assert list(judges.asked_problems("x", asked)) == []
    (remark,) = judges.unreachable("x", asked["base_url"])
    assert f"127.0.0.1:{port} takes no connection now" in remark
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        there.listen()
        assert list(judges.unreachable("x", f"http://127.0.0.1:{there.getsockname()[1]}/v1")) == []


def test_rewards_are_checked_with_their_parts_prompts_and_models(tmp_path):
    (tmp_path / "bad.jinja").write_text("{{ response")
    here = {"model": "m", "base_url": "http://localhost:1/v1"}

    def found(name, **parameters):
        return list(judges.reward_problems("reward", RewardParameters(name=name, parameters=parameters)))

    assert found("bradley_terry") == [] and found("rules") == [] and found("generative", **here) == []
    assert "unknown reward 'magic'" in found("magic")[0]
    assert "there is no template" in found("generative", template="nowhere", **here)[0]
    parts = [{"name": "rules"}, {"name": "generative", "parameters": here | {"template": str(tmp_path / "bad.jinja")}}]
    (sentence,) = found("combined", parts=parts)
    assert sentence.startswith("parameter reward.parameters.parts.1.parameters.template: ")
    (sentence,) = found("bradley_terry", model_dir="of/no/one")
    assert sentence.startswith("parameter reward.parameters.model_dir: ")


# The machine


def test_accelerate_files_of_the_project_are_read_and_ask_for_gpus_that_are_there(monkeypatch):
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    monkeypatch.delenv("RAO_KEDRO_LAUNCHER", raising=False)

    def found(gpus):
        monkeypatch.setattr(machine, "visible_gpus", lambda: gpus)
        paths = sorted((ROOT / "conf/accelerate").glob("*.yaml"))
        return {path.stem: list(machine.launch_problems(path, machine.read_launch(path))) for path in paths}

    eight = found(8)
    assert [name for name, sentences in eight.items() if sentences] == ["deepspeed_zero3"]  # which is not installed
    assert "DeepSpeed, which is not installed" in eight["deepspeed_zero3"][0]
    assert {name for name, said in found(4).items() if "starts 8 processes with a GPU each" in " ".join(said)} == {
        *("ddp", "deepspeed_zero3", "fsdp2", "fsdp2_two_machines")
    }
    assert "which has none" in found(0)["fsdp2"][0]
    assert found(None)["fsdp2"] == []
    monkeypatch.setenv("RAO_KEDRO_LAUNCHER", "srun")
    assert found(0)["fsdp2"] == []


def test_a_file_that_is_no_accelerate_file_is_named(tmp_path):
    (tmp_path / "mine.yaml").write_text("processes: 8")
    assert "mine.yaml is no accelerate file" in machine.read_launch(tmp_path / "mine.yaml")


def test_options_of_training_that_do_not_work_here_are_refused(monkeypatch):
    fsdp = machine.read_launch(ROOT / "conf/accelerate/fsdp2.yaml")
    monkeypatch.setattr(machine, "visible_gpus", lambda: 8)
    monkeypatch.setattr(machine, "find_spec", lambda name: object())

    def found(launch=fsdp, samples=False, **how):
        return list(machine.training_problems("alignment.ppo.training", training(**how), launch, samples))

    assert found() == [] and found(optimizer="adamw_8bit") == []
    assert "fsdp_activation_checkpointing" in found(activation_checkpointing=True)[0]
    assert found(samples=True)[0].startswith("alignment.ppo: ppo samples from the policy, which FSDP would shard")
    deepspeed = machine.read_launch(ROOT / "conf/accelerate/deepspeed_zero3.yaml")
    assert "does not work with DeepSpeed" in found(deepspeed, compile=True)[0]
    monkeypatch.setattr(machine, "visible_gpus", lambda: 0)
    assert "adamw_8bit needs a GPU" in found(None, optimizer="adamw_8bit")[0]


def test_memory_counts_weights_gradients_and_optimizer_and_what_is_sharded(monkeypatch):
    weights = 10**9
    fsdp = machine.read_launch(ROOT / "conf/accelerate/fsdp2.yaml")
    assert machine.state_bytes(training(), weights, None) == 16 * weights
    assert machine.state_bytes(training(optimizer="adamw_8bit"), weights, None) == 10 * weights
    assert machine.state_bytes(training(lora=LoRAParameters()), weights, None) == 4 * weights
    assert machine.state_bytes(training(), weights, fsdp, models=2) == 4 * weights
    monkeypatch.setattr(machine, "main_memory", lambda: 16 * weights)
    assert list(machine.memory_problems("train_sft", 16 * weights, None)) == []
    (sentence,) = machine.memory_problems("train_sft", 16 * weights + 1, None)
    assert sentence.startswith("train_sft: weights, gradients and optimizer take 16 GB of memory, and this machine has")
    monkeypatch.setattr(machine, "visible_gpus", lambda: 8)
    monkeypatch.setattr(machine, "gpu_memory", lambda: 10**9)
    assert "the smallest GPU has 1.0 GB" in next(machine.memory_problems("train_sft", 2 * 10**9, fsdp))
    offloading = fsdp._replace(options={"fsdp_config": {"fsdp_offload_params": True}})
    assert list(machine.memory_problems("train_sft", 2 * 10**9, offloading)) == []


def test_gpus_that_are_hidden_do_not_count(monkeypatch):
    if machine.visible_gpus() is None:
        pytest.skip("GPUs of this machine are of another kind")
    devices = ("/dev/nvidia0", "/dev/nvidia1", "/dev/nvidiactl")
    monkeypatch.setattr(Path, "glob", lambda self, pattern: map(Path, devices))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.visible_gpus() == 2
    for listed, n in (("", 0), ("1", 1), ("0,1,2", 2), ("0,-1,1", 1), ("MIG-a,MIG-b,MIG-c", 3)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
        assert machine.visible_gpus() == n, listed


def test_a_disk_that_is_too_full_is_refused(tmp_path, monkeypatch):
    place = tmp_path / "not/there/yet"
    free = machine.free_bytes(place)
    assert list(machine.disk_problems(free // 2, place)) == []
    (sentence,) = machine.disk_problems(free * 2, place)
    assert "the models and checkpoints of this run take" in sentence and "data_root" in sentence


# All of them


def test_only_what_the_nodes_of_a_run_need_is_checked():
    judge = JudgeParameters(model="m", base_url="https://api.example.com/v1", api_key_variable="NO_SUCH_KEY")
    benchmarks = AnsweredBenchmarks(names="gsm8k")
    judged = step("judge_methods", judge=judge, second_judge=None)
    assert list(checks._of_step(run(judged, evaluation__benchmarks=benchmarks), judged)) == []
    chosen = AnsweredBenchmarks(names="mt_bench")
    (sentence,) = checks._of_step(run(judged, evaluation__benchmarks=chosen), judged)
    assert "NO_SUCH_KEY is not set" in sentence
    assert list(checks._of_step(run(), step("plot_training"))) == []


def test_what_a_model_may_write_too_much_is_a_remark_and_no_refusal():
    how = {"max_tokens": 100, "samples_per_prompt": 2}
    method = MethodParameters(objective="ppo", training=training(max_tokens_per_batch=455), rollout=how)
    aligning = step("align", name="ppo.train", method=method)
    (remark,) = checks._remarks(run(data__max_prompt_tokens=256), aligning)
    assert remark.startswith("ppo.train: a rollout may have 456 tokens, more than max_tokens_per_batch (455)")
    generation = GenerationParameters(sampling={"n": 2, "max_tokens": 100})
    known = run(data__max_prompt_tokens=256, evaluation__generation=generation)
    (remark,) = checks._remarks(known, step("score_responses", name="rao.score", max_tokens_per_batch=455))
    assert "a prompt may have 456 tokens with its 2 responses" in remark
    assert list(checks._remarks(known, step("score_responses", max_tokens_per_batch=456))) == []


def test_one_response_makes_no_preference_and_a_backend_is_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    one = data(generation={"backend": "vllm", "max_model_len": 48, "sampling": {"n": 1, "max_tokens": 48}})
    given = {"source": "sampled", "sampled": one.sampled, "preferences": None, "n_evaluation_prompts": 20}
    collecting = step("collect_preferences", **given)
    found = list(checks._of_step(run(collecting), collecting))
    said = ("vLLM is not installed", "sampling.n is 1", "leaves no room")
    assert all(text in sentence for text, sentence in zip(said, found, strict=True))


def test_a_plan_error_is_an_error_of_parameters_data_and_models():
    from rao_kedro.errors import DataError, ModelError, ParameterError

    assert all(issubclass(PlanError, kind) for kind in (ParameterError, DataError, ModelError))
