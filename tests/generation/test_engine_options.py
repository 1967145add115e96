"""What vLLM is given, and what is refused before it starts."""

import json

import pytest
from pydantic import ValidationError

from rao_kedro.config.generation import (
    EngineParameters,
    GenerationParameters,
    SamplingParameters,
    ServedEngineParameters,
)
from rao_kedro.config.servers import JudgeServerParameters
from rao_kedro.errors import ParameterError
from rao_kedro.generation import engine_options as options
from rao_kedro.generation import replicas
from rao_kedro.generation.generators import make_generator
from rao_kedro.judges.judge import Judge


@pytest.fixture
def adapter(tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps({"r": 20, "rank_pattern": {"q_proj": 40}}))
    (tmp_path / "adapter/adapter_model.safetensors").write_bytes(b"weights")
    return str(tmp_path / "adapter")


def test_every_way_of_sampling_reaches_vllm():
    sampling = SamplingParameters(
        n=3,
        temperature=0.7,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        repetition_penalty=1.1,
        stop=["###"],
        max_tokens=9,
        seed=5,
    )
    given = options.sampling_options(sampling, [2, 7])
    assert given == sampling.model_dump(exclude={"seed"}) | {
        "stop": ["###"],
        "stop_token_ids": [2, 7],
        "detokenize": True,
    }
    plain = options.sampling_options(SamplingParameters(n=4, temperature=0), [2])
    assert (plain["n"], plain["detokenize"], plain["top_k"], plain["stop"]) == (1, False, 0, [])


def test_an_engine_is_given_what_is_set_and_nothing_else(adapter):
    assert options.engine_options(EngineParameters(), on_cpu=False) == {"enforce_eager": False}
    assert options.engine_options(EngineParameters(enforce_eager=False), on_cpu=True) == {"enforce_eager": False}
    set_ = {
        "tensor_parallel_size": 4,
        "pipeline_parallel_size": 2,
        "gpu_memory_utilization": 0.5,
        "cpu_offload_gb": 2.0,
        "quantization": "fp8",
        "kv_cache_dtype": "fp8",
        "enable_prefix_caching": False,
        "max_num_seqs": 64,
        "max_num_batched_tokens": 4096,
    }
    given = options.engine_options(EngineParameters(data_parallel_size=2, lora_path=adapter, **set_), on_cpu=True)
    room = {"enable_lora": True, "max_loras": 1, "max_lora_rank": 64}
    assert given == {"enforce_eager": True, **set_, **room}


def test_a_server_is_given_the_same_as_options_of_its_command(adapter):
    engine = ServedEngineParameters(
        data_parallel_size=2, kv_cache_dtype="fp8", enable_prefix_caching=False, dtype="float16", enforce_eager=True
    )
    flags = " ".join(options.server_flags(engine, "judge"))
    assert flags == (
        "--served-model-name judge --enforce-eager --data-parallel-size 2 --kv-cache-dtype fp8 "
        "--no-enable-prefix-caching --dtype float16"
    )
    flags = " ".join(options.server_flags(ServedEngineParameters(lora_path=adapter), "judge"))
    assert f"--lora-modules judge={adapter}" in flags and "--max-lora-rank 64" in flags
    assert "--served-model-name judge-without-adapter" in flags


@pytest.mark.parametrize(
    ("engine", "gpus", "backend", "message"),
    [
        ({"tensor_parallel_size": 2}, 8, "transformers", "tensor_parallel_size: the backend transformers has no such"),
        (
            {"quantization": "fp8"},
            0,
            "vllm",
            "engine.quantization is for GPUs, and this machine has none: leave it out",
        ),
        ({"gpu_memory_utilization": 0.5}, 0, "vllm", "VLLM_CPU_KVCACHE_SPACE"),
        ({"pipeline_parallel_size": 2}, 0, "vllm", "divide a model over GPUs, and this machine has none"),
        (
            {"data_parallel_size": 4, "tensor_parallel_size": 4},
            8,
            "vllm",
            "data_parallel_size 4 x tensor_parallel_size 4 needs 16 GPUs, and this process sees 8",
        ),
        (
            {"data_parallel_size": 2},
            1,
            "transformers",
            "data_parallel_size 2 needs 2 GPUs, and this process sees 1",
        ),
    ],
)
def test_what_cannot_work_here_is_refused_with_a_sentence(engine, gpus, backend, message, monkeypatch):
    monkeypatch.setattr(options, "visible_gpus", lambda: [str(i) for i in range(gpus)])
    with pytest.raises(ParameterError, match=message):
        options.refuse_impossible(EngineParameters(**engine), backend)


@pytest.mark.parametrize(
    ("engine", "gpus"),
    [({"data_parallel_size": 2, "tensor_parallel_size": 4}, 8), ({"data_parallel_size": 2}, 0), ({}, 0)],
)
def test_what_can_work_here_is_not_refused(engine, gpus, monkeypatch):
    monkeypatch.setattr(options, "visible_gpus", lambda: [str(i) for i in range(gpus)])
    options.refuse_impossible(EngineParameters(**engine), "vllm")


def test_an_option_of_vllm_is_refused_with_the_other_backend_and_an_unknown_one_with_both(tiny_checkpoint):
    with pytest.raises(ValidationError, match=r"engine.max_num_seqs: the backend transformers has no such option"):
        GenerationParameters(backend="transformers", engine={"max_num_seqs": 4})
    with pytest.raises(ParameterError, match=r"engine.max_num_seqs: the backend transformers has no such option"):
        make_generator("transformers", tiny_checkpoint, engine=EngineParameters(max_num_seqs=4))
    with pytest.raises(ValidationError, match=r"engine.tensor_paralel_size"):
        GenerationParameters(engine={"tensor_paralel_size": 4})


def test_each_engine_has_gpus_of_its_own_of_those_that_may_be_used(monkeypatch):
    monkeypatch.setattr(replicas, "visible_gpus", lambda: ["2", "3", "6", "7"])
    assert replicas._environments(2, 2) == [{"CUDA_VISIBLE_DEVICES": "2,3"}, {"CUDA_VISIBLE_DEVICES": "6,7"}]


def test_engine_options_of_a_judge_are_those_of_vllm_here_and_decide_what_its_answers_are_kept_by(
    tiny_checkpoint, adapter
):
    def judge(model=str(tiny_checkpoint), **how):
        return Judge(JudgeServerParameters(model=model, **how))

    plain = judge().identity
    assert judge(engine={"data_parallel_size": 8, "max_num_seqs": 4}).identity == plain
    others = {
        judge(engine=engine).identity
        for engine in ({"quantization": "fp8"}, {"dtype": "float32"}, {"lora_path": adapter})
    }
    assert len(others | {plain}) == 4
    with pytest.raises(ValidationError, match=r"engine.tensor_paralel_size\s+Extra inputs are not permitted"):
        judge(engine={"tensor_paralel_size": 2})
    with pytest.raises(ValidationError, match="a server at base_url has its own options"):
        judge(base_url="http://x/v1", engine={"quantization": "fp8"})
