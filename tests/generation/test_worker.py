"""The generation worker: its table, its shards, and how it goes on after a kill."""

import json
import shutil

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from launching import IN_PROCESS

from rao_kedro.config.generation import EngineParameters
from rao_kedro.errors import DataError, GenerationError, ParameterError
from rao_kedro.generation import GenerationSpec, SamplingParameters, worker
from rao_kedro.generation.base import Completion
from rao_kedro.models.chat_format import load_tokenizer
from rao_kedro.workers import launch

PROMPTS = [
    {"prompt_id": f"p{i}", "messages": [{"role": "user", "content": "fox " * i}], "requirements": "[]"}
    for i in range(1, 6)
]


class Recorder:
    """A generator that writes what it was asked, and dies when told to."""

    def __init__(self, dies_at_call=None, dies_at_prompt=None):
        self.calls, self.dies_at_call, self.dies_at_prompt = [], dies_at_call, dies_at_prompt

    def stream(self, prompt_ids, sampling):
        if len(self.calls) == self.dies_at_call:
            raise KeyboardInterrupt
        self.calls.append((len(prompt_ids), sampling.seed))
        for i in sorted(range(len(prompt_ids)), key=lambda i: (i // 2, -i)):  # as they end, not as they stand
            if i == self.dies_at_prompt:
                raise KeyboardInterrupt
            text = f"{sampling.seed}-{len(prompt_ids[i])}"
            yield i, [Completion(f"{text}-{k}", [5, k, 2], "stop") for k in range(sampling.n)]


@pytest.fixture
def spec(tmp_path, tiny_checkpoint):
    pq.write_table(pa.Table.from_pylist(PROMPTS), tmp_path / "prompts.parquet")
    return GenerationSpec(
        model_dir=tiny_checkpoint,
        prompts_path=tmp_path / "prompts.parquet",
        output_path=tmp_path / "out" / "generations.parquet",
        sampling=SamplingParameters(n=2, max_tokens=8),
        backend="transformers",
        dtype="float32",
        max_model_len=128,
        shard_size=2,
    )


def run(spec, generator):
    spec.shards_dir.mkdir(parents=True, exist_ok=True)
    path = spec.shards_dir / "spec.json"
    path.write_text(spec.model_dump_json())
    worker.main(str(path), make=lambda *_, **__: generator)


def test_the_table_has_a_row_per_prompt_and_sample_whose_tokens_spell_its_text(spec):
    launch(spec, IN_PROCESS)
    table = pd.read_parquet(spec.output_path)
    assert list(table["prompt_id"]) == [f"p{i}" for i in range(1, 6) for _ in range(2)]
    assert list(table["sample"]) == [0, 1] * 5
    assert (table["n_tokens"] == table["response_ids"].map(len)).all() and (table["n_tokens"] <= 8).all()
    assert not spec.shards_dir.exists()


def test_a_response_begins_with_the_thought_that_its_prompt_opens(spec, tmp_path, tiny_checkpoint):
    shutil.copytree(tiny_checkpoint, tmp_path / "thinker")
    template = (tiny_checkpoint / "chat_template.jinja").read_text()
    (tmp_path / "thinker/chat_template.jinja").write_text(
        template + "{% if add_generation_prompt %}<think>\n{% endif %}"
    )
    run(spec.model_copy(update={"model_dir": tmp_path / "thinker"}), Recorder())
    responses = pq.read_table(spec.output_path)["response"].to_pylist()
    assert all(response.startswith("<think>\n") for response in responses)


def test_a_killed_run_goes_on_behind_its_finished_shards_with_the_same_seeds(spec):
    uninterrupted = Recorder()
    run(spec, uninterrupted)
    spec.output_path.unlink()
    killed, resumed = Recorder(dies_at_call=2), Recorder()
    with pytest.raises(KeyboardInterrupt):
        run(spec, killed)
    assert not spec.output_path.exists()
    run(spec, resumed)
    assert killed.calls + resumed.calls == uninterrupted.calls
    assert len(resumed.calls) == 1


def test_greedy_text_is_asked_for_at_once_kept_by_the_shard_and_in_its_place(spec):
    greedy = spec.model_copy(update={"sampling": SamplingParameters(temperature=0, max_tokens=8)})
    run(greedy, uninterrupted := Recorder())
    assert [n for n, _ in uninterrupted.calls] == [5]
    table = pd.read_parquet(greedy.output_path)
    lengths = [len(ids) for ids in table["prompt_ids"]]
    assert [int(text.split("-")[1]) for text in table["response"]] == lengths and lengths == sorted(lengths)
    greedy.output_path.unlink()
    with pytest.raises(KeyboardInterrupt):
        run(greedy, Recorder(dies_at_prompt=2))
    run(greedy, resumed := Recorder())
    assert [n for n, _ in resumed.calls] == [3]


def test_a_finished_table_is_kept_and_another_seed_or_a_change_of_it_makes_it_again(spec):
    run(spec, Recorder())
    written = spec.output_path.read_bytes()
    run(spec, untouched := Recorder())
    assert untouched.calls == []
    pd.read_parquet(spec.output_path).assign(response="edited").to_parquet(spec.output_path)
    run(spec, mended := Recorder())
    assert len(mended.calls) == 3 and spec.output_path.read_bytes() == written
    run(spec.model_copy(update={"sampling": SamplingParameters(n=2, max_tokens=8, seed=1)}), again := Recorder())
    assert len(again.calls) == 3


def test_options_that_change_the_text_change_the_key_and_where_engines_run_does_not(spec, tmp_path):
    key = worker.generation_key(spec, PROMPTS)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text('{"r": 4}')
        (tmp_path / name / "adapter_model.safetensors").write_text(name)
    sampling = {"n": 3, "temperature": 0.5, "top_p": 0.9, "max_tokens": 9, "seed": 1}
    sampling |= {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "stop": ("a",)}
    set_ = {
        **{
            f"sampling.{name}": {"sampling": spec.sampling.model_copy(update={name: value})}
            for name, value in sampling.items()
        },
        "kwargs": {"chat_template_kwargs": {"date": "today"}},
        **{name: {name: value} for name, value in {"dtype": "bfloat16", "max_model_len": 64, "shard_size": 3}.items()},
        **{
            str(engine): {"engine": EngineParameters(**engine)}
            for engine in (
                {"quantization": "fp8"},
                {"kv_cache_dtype": "fp8"},
                *({"lora_path": str(tmp_path / name)} for name in ("first", "second")),
            )
        },
    }
    keys = {worker.generation_key(spec.model_copy(update=update), PROMPTS) for update in set_.values()}
    assert len(keys | {key, worker.generation_key(spec, PROMPTS[:4])}) == len(set_) + 2
    placed = EngineParameters(data_parallel_size=2, max_num_seqs=4, gpu_memory_utilization=0.5)
    assert worker.generation_key(spec.model_copy(update={"engine": placed}), PROMPTS) == key


def test_variables_of_the_chat_template_are_in_the_prompts_and_unread_ones_are_refused(spec, tmp_path):
    model = shutil.copytree(spec.model_dir, tmp_path / "model")
    template = model / "chat_template.jinja"
    template.write_text("{{ mood | default('calm') }}" + template.read_text())
    spec = spec.model_copy(update={"model_dir": model})
    tokenizer = load_tokenizer(model)
    for kwargs, beginning in (({}, "calm"), ({"mood": "gay"}, "gay")):
        run(spec.model_copy(update={"chat_template_kwargs": kwargs}), Recorder())
        ids = pd.read_parquet(spec.output_path)["prompt_ids"]
        assert all(tokenizer.decode(row).startswith(beginning) for row in ids)
    with pytest.raises(ParameterError, match=r"model does not read mod, tools; it reads mood"):
        run(spec.model_copy(update={"chat_template_kwargs": {"mod": 1, "mood": 2, "tools": []}}), Recorder())


def test_a_checkpoint_with_another_stop_token_generates_again_and_one_with_another_readme_does_not(spec, tmp_path):
    model = shutil.copytree(spec.model_dir, tmp_path / "model")
    spec = spec.model_copy(update={"model_dir": model})
    run(spec, Recorder())
    (model / "README.md").write_text("changed")
    run(spec, untouched := Recorder())
    settings = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": [0, 1]}))
    run(spec, again := Recorder())
    assert (len(untouched.calls), len(again.calls)) == (0, 3)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "contains no prompts"),
        ([PROMPTS[0], PROMPTS[0]], "'p1' occurs twice"),
        ([{"prompt_id": "a"}], "columns messages, requirements are missing"),
    ],
)
def test_unusable_prompts_are_refused_with_the_file_and_the_reason(spec, rows, message):
    schema = None if rows else pa.schema([("prompt_id", pa.string()), ("messages", worker.MESSAGES)])
    table = pa.Table.from_pylist(rows, schema=schema)
    if not rows:
        table = table.append_column("requirements", pa.array([], pa.string()))
    pq.write_table(table, spec.prompts_path)
    with pytest.raises(DataError, match=f"prompts.parquet.*{message}"):
        run(spec, Recorder())


def test_a_prompt_that_leaves_no_room_is_named(spec):
    with pytest.raises(GenerationError, match=r"prompt 'p\d' has \d+ tokens, and max_model_len 12 leaves 4"):
        run(spec.model_copy(update={"max_model_len": 12}), Recorder())


def test_a_failing_worker_process_says_why_in_one_error(spec):
    workers = IN_PROCESS.model_copy(update={"in_process": False})
    with pytest.raises(GenerationError, match=r"(?s)text generation with .*: .* holds no .*safetensors file.*are kept"):
        launch(spec.model_copy(update={"model_dir": spec.output_path.parent}), workers)


def test_a_prompt_that_the_template_refuses_is_named(spec, tmp_path, tiny_checkpoint):
    shutil.copytree(tiny_checkpoint, tmp_path / "model")
    template = tmp_path / "model/chat_template.jinja"
    template.write_text("{% if 'system' in messages[0]['role'] %}{{ raise_exception('no') }}{% endif %}")
    asked = [*PROMPTS[:1], {**PROMPTS[1], "messages": [{"role": "system", "content": "x"}]}]
    pq.write_table(pa.Table.from_pylist(asked), spec.prompts_path)
    with pytest.raises(GenerationError, match=r"prompts\.parquet: prompt 'p2': the chat template refuses these"):
        run(spec.model_copy(update={"model_dir": tmp_path / "model"}), Recorder())
