"""Several engines beside each other: real processes, with the backend transformers on the tiny model."""

from multiprocessing import Pipe

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rao_kedro.config.generation import EngineParameters, GenerationSpec, SamplingParameters
from rao_kedro.errors import GenerationError
from rao_kedro.generation import replicas, worker
from rao_kedro.generation.base import ParallelGenerator
from rao_kedro.generation.generators import make_generator

HOW = {"dtype": "float32", "max_model_len": 128}
PROMPTS = [
    {"prompt_id": f"p{i}", "messages": [{"role": "user", "content": "fox " * (1 + i % 5)}], "requirements": "[]"}
    for i in range(7)
]


@pytest.fixture(scope="module")
def two(tiny_checkpoint):
    engines = make_generator("transformers", tiny_checkpoint, engine=EngineParameters(data_parallel_size=2), **HOW)
    yield engines
    engines.close()


@pytest.fixture
def spec(tmp_path, tiny_checkpoint):
    pq.write_table(pa.Table.from_pylist(PROMPTS), tmp_path / "prompts.parquet")
    return GenerationSpec(
        model_dir=tiny_checkpoint,
        prompts_path=tmp_path / "prompts.parquet",
        output_path=tmp_path / "generations.parquet",
        backend="transformers",
        shard_size=2,
        **HOW,
    )


@pytest.mark.parametrize("sampling", [{"n": 2, "max_tokens": 8, "seed": 3}, {"temperature": 0, "max_tokens": 8}])
def test_two_engines_write_exactly_what_one_writes(two, spec, sampling):
    assert isinstance(two, ParallelGenerator) and two.size == 2
    spec = spec.model_copy(update={"sampling": SamplingParameters(**sampling)})
    key = worker.generation_key(spec, PROMPTS)
    worker.generate_table(spec, make_generator)
    expected = pd.read_parquet(spec.output_path)
    spec.output_path.unlink()
    spec = spec.model_copy(update={"engine": EngineParameters(data_parallel_size=2)})
    assert worker.generation_key(spec, PROMPTS) == key
    worker.generate_table(spec, lambda *_, **__: two)
    pd.testing.assert_frame_equal(pd.read_parquet(spec.output_path), expected)


def test_two_engines_divide_calls_and_questions(two, tiny_checkpoint):
    one = make_generator("transformers", tiny_checkpoint, **HOW)
    prompts, asked = [[1, 5, 6], [1, 7], [1, 8, 9, 10]], [[[5], [6]], [[7, 8]], [[8], [9], [10]]]
    of_two, of_one = (generator.continuation_logps(prompts, asked) for generator in (two, one))
    for found, expected in zip(of_two, of_one, strict=True):
        assert [of.logp for of in found] == pytest.approx([of.logp for of in expected], abs=1e-5)
    sampling = SamplingParameters(max_tokens=4, seed=1)
    assert sorted(two.stream(prompts, sampling)) == sorted(one.stream(prompts, sampling))
    calls = [(prompts[i : i + 1], sampling) for i in range(3)]
    found = [(call, completions) for call, _, completions in two.stream_calls(calls)]
    assert sorted(found) == [(i, next(one.stream(*calls[i]))[1]) for i in range(3)]


def test_an_engine_that_dies_is_named_and_the_others_end(two):
    """Comes last: the engines are gone behind it."""
    processes = list(two._processes)
    processes[1].kill()
    with pytest.raises(GenerationError, match=r"engine 2 of 2 ended with exit status -9"):
        list(two.stream_calls([([[1, 5]], SamplingParameters(max_tokens=2))] * 4))
    assert [process.is_alive() for process in processes] == [False, False]


def test_an_engine_says_what_kept_it_from_starting(tiny_checkpoint):
    ours, theirs = Pipe()
    with pytest.raises(SystemExit):
        replicas._work(theirs, make_generator, "transformers", str(tiny_checkpoint.parent), HOW)
    said = ours.recv()
    assert said.kind == "error" and said.content.startswith("no tokenizer could be loaded")


def test_an_engine_that_is_interrupted_ends_without_a_traceback(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        replicas._work(Pipe()[1], interrupted, "transformers", "model", {})
    assert ended.value.code == 130
