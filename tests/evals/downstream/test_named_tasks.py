"""Tasks of lm-evaluation-harness itself, on local rows, against the harness run as its own command runs it."""

import json
import math
import sys
from functools import partial
from pathlib import Path

import lm_eval.tasks
import numpy as np
import pytest
from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from rao_kedro.config.generation import GenerationParameters
from rao_kedro.errors import DataError, ParameterError
from rao_kedro.evals.downstream import named_tasks
from rao_kedro.evals.downstream.harness_model import ServedLM, TextLM
from rao_kedro.evals.downstream.named_tasks import load_tasks, run
from rao_kedro.evals.downstream.parameters import HarnessParameters
from rao_kedro.evals.downstream.tables import DownstreamSampleTable, DownstreamScoreTable
from rao_kedro.generation.generators import make_generator
from rao_kedro.judges.chat_completions import ChatServer
from rao_kedro.models.chat_format import load_tokenizer
from rao_kedro.models.loading import load_causal_lm

HARNESS = Path(lm_eval.tasks.__file__).parent
CHOICES = ["fox", "lazy dog", "the quick", "brown"]
MAX_LEN = 600

# What a task of the harness may be, besides those that are tried as they are.
FILES = {
    "left.yaml": "task: left\ninclude: choices\n",
    "right.yaml": "task: right\ninclude: choices\n",
    "choices": """
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{label}}"
doc_to_choice: "{{choices}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
metadata: {version: 7}
""",
    "pair.yaml": "group: pair\ntask: [left, right]\naggregate_metric_list: [{metric: acc, weight_by_size: true}]\n",
    "even.yaml": "group: even\ntask: [left, right]\naggregate_metric_list: [{metric: acc, weight_by_size: false}]\n",
    "rolling.yaml": """
task: rolling
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: word_perplexity}]
""",
    "rules.yaml": """
task: rules
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{label}}"
generation_kwargs: {until: [], max_gen_toks: 4}
process_results: !function rules.process_results
metric_list:
  - {metric: all_kept, aggregation: mean, higher_is_better: true}
  - {metric: each_kept, aggregation: !function rules.pooled, higher_is_better: true}
""",
    "rules.py": """
def process_results(doc, results):
    kept = [len(results[0]) > n for n in range(int(doc["label"]) + 1)]
    return {"all_kept": all(kept), "each_kept": kept}

def pooled(items):
    flat = [kept for item in items for kept in item]
    return sum(flat) / len(flat)
""",
    "runs_code.yaml": "task: runs_code\ninclude: choices\nunsafe_code: true\n",
    "package.yaml": "task: package\ninclude: choices\nprocess_docs: !function package.process_docs\n",
    "package.py": "import no_such_package\n",
}


@pytest.fixture(scope="module")
def manager(tmp_path_factory):
    """Some of the harness's own files and those above: an index of all takes ten seconds."""
    directory = tmp_path_factory.mktemp("tasks")
    for name, text in FILES.items():
        (directory / name).write_text(text.replace("include: choices", f"include: {directory / 'choices'}"))
    paths = [HARNESS / "gsm8k", HARNESS / "arc", HARNESS / "hellaswag", HARNESS / "ifeval", directory]
    return TaskManager(include_path=paths, include_defaults=False)


@pytest.fixture(autouse=True)
def indexed(manager, monkeypatch):
    monkeypatch.setattr(named_tasks, "TaskManager", lambda: manager)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Local data by name, as `datasets` of the parameters."""
    directory = tmp_path_factory.mktemp("rows")

    def local(name, rows):
        (directory / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        files = {split: str(directory / f"{name}.jsonl") for split in ("train", "validation", "test")}
        return {"dataset_path": "json", "dataset_kwargs": {"data_files": files}}

    questions = [f"the {'dog ' * i}fox {i}" for i in range(1, 6)]
    arc = {"choices": {"text": CHOICES, "label": list("ABCD")}, "answerKey": "B"}
    labelled = [{"question": text, "label": i % 3, "choices": CHOICES} for i, text in enumerate(questions)]
    return {
        "gsm8k_cot": local(
            "gsm8k", [{"question": text, "answer": f"So.\n#### {i}"} for i, text in enumerate(questions)]
        ),
        "arc_challenge": local("arc", [{"id": text, "question": text, **arc} for text in questions]),
        "all": local("all", labelled),
        "few": local("few", labelled[:3]),
    }


@pytest.fixture(scope="module")
def lm(tiny_checkpoint):
    how = GenerationParameters(backend="transformers", dtype="float32", max_model_len=MAX_LEN, shard_size=2)
    generator = make_generator("transformers", tiny_checkpoint, dtype="float32")
    return TextLM(tiny_checkpoint, how, lambda: generator)


def measured(lm, named, limit=None):
    scores, samples = run(lm, named, limit)
    DownstreamScoreTable.validate(scores.assign(method="rao"))
    DownstreamSampleTable.validate(samples.assign(method="rao"))
    return scores.set_index(["task", "metric"]), samples.set_index(["task", "metric"])


@pytest.mark.parametrize("in_template", [True, False])
def test_scores_are_those_of_the_harnesss_own_command_with_its_own_model(
    lm, rows, manager, tiny_checkpoint, monkeypatch, in_template
):
    names = ["gsm8k_cot", "arc_challenge"]
    datasets = {name: rows[name] for name in names}
    how = HarnessParameters(tasks=" ".join(names), num_fewshot=2, apply_chat_template=in_template, datasets=datasets)

    def shortened(tasks):
        tasks["gsm8k_cot"].set_config("generation_kwargs", {"max_gen_toks": 12}, update=True)
        return tasks

    named = load_tasks(how)
    shortened(named.tasks)
    scores, samples = measured(lm, named, limit=4)
    # As `lm_eval --model hf` does it; only the description of the machine is left out.
    monkeypatch.setattr(evaluator, "add_env_info", lambda results: None)
    specs = [{"task": name, **how.datasets[name].overrides} for name in names]
    tasks = [*shortened(manager.load({"group": "local", "task": specs})["tasks"]).values()]
    hf = HFLM(
        pretrained=load_causal_lm(tiny_checkpoint),
        tokenizer=load_tokenizer(tiny_checkpoint),
        batch_size=2,
        max_length=MAX_LEN,
    )
    seeds = {f"{of}_seed": None for of in ("random", "numpy_random", "torch_random")}
    theirs = evaluator.simple_evaluate(
        hf,
        tasks=tasks,
        task_manager=manager,
        num_fewshot=2,
        limit=4,
        apply_chat_template=in_template,
        bootstrap_iters=1,
        **seeds,
    )
    for name in names:
        found = {key: value for key, value in theirs["results"][name].items() if "," in key and "_stderr" not in key}
        assert len(found) == 2
        for key, value in found.items():
            row = scores.loc[f"lm_eval/{name}", key.removesuffix(",none")]
            assert row["value"] == pytest.approx(value)
            assert row["stderr"] == pytest.approx(theirs["results"][name][key.replace(",", "_stderr,")])
            assert (row["n"], row["num_fewshot"]) == (4, 2) and row["version"] == str(theirs["versions"][name])
            assert row["low"] <= row["value"] <= row["high"]
            filter_ = key.partition(",")[2]
            prompts = [of["arguments"][0][0] for of in theirs["samples"][name] if of["filter"] == filter_]
            assert samples.loc[(f"lm_eval/{name}", key.removesuffix(",none")), "prompt"].tolist() == prompts
    arc = scores.loc["lm_eval/arc_challenge", "acc"]
    assert arc["chance"] == 0.25 and math.isnan(arc["cut"])
    cot = samples.loc["lm_eval/gsm8k_cot", "exact_match,flexible-extract"]
    assert set(cot["finish_reason"]) <= {"stop", "length"} and cot["gold"].tolist() == ["0", "1", "2", "3"]
    logps = json.loads(samples.loc["lm_eval/arc_challenge", "acc"]["output"].iloc[0])
    assert [choice.strip() for choice, _ in logps] == CHOICES


def test_a_group_has_the_harnesss_own_aggregate_and_its_parts(lm, rows):
    # Left has five items, right the first three of them: the group counts these twice.
    for name, weighted in (("pair", True), ("even", False)):
        named = load_tasks(HarnessParameters(tasks=name, datasets={name: rows["all"]}))
        few = load_tasks(HarnessParameters(tasks="right", datasets={"right": rows["few"]})).tasks["right"]
        named.tasks["right"] = few
        named.groups[name].add(few)
        scores, samples = run(lm, named)
        values = scores.set_index(["task", "metric"])
        assert scores["task"].tolist()[0] == f"lm_eval/{name}"
        left, right = (
            samples.query(f"task == 'lm_eval/{name}::{part}' and metric == 'acc'")["value"]
            for part in ("left", "right")
        )
        assert (len(left), len(right)) == (5, 3)
        group = values.loc[f"lm_eval/{name}", "acc"]
        expected = np.mean([*left, *right]) if weighted else (left.mean() + right.mean()) / 2
        assert (group["value"], group["n"], group["version"]) == (pytest.approx(expected), 8, "N/A")
        assert values.loc[(f"lm_eval/{name}::right", "acc"), "n"] == 3 and group["chance"] == 0.25
        assert values.loc[(f"lm_eval/{name}::left", "acc"), "version"] == "7"
        assert (f"lm_eval/{name}", "acc_norm") not in values.index  # the group's file does not name it
        stderr = math.hypot(left.sem(), right.sem()) / 2
        if not weighted:
            assert group["high"] - group["low"] == pytest.approx(2 * 1.959964 * stderr)
        assert group["num_fewshot"] == 0
        assert group["low"] <= group["value"] <= group["high"]


def test_a_metric_that_is_no_mean_has_a_bootstrap_interval_and_no_values_of_items(lm, rows):
    how = HarnessParameters(tasks="rules rolling", datasets={"rules": rows["all"], "rolling": rows["all"]})
    scores, samples = measured(lm, load_tasks(how))
    perplexity = scores.loc["lm_eval/rolling", "word_perplexity"]
    assert perplexity["value"] > 1 and not perplexity["is_share"]
    assert perplexity["low"] < perplexity["value"] < perplexity["high"] and perplexity["stderr"] > 0
    assert (
        scores.loc[("lm_eval/rules", "each_kept"), "is_share"] and scores.loc[("lm_eval/rules", "all_kept"), "is_share"]
    )
    assert samples.loc[("lm_eval/rules", "each_kept"), "value"].isna().all()
    assert samples.loc[("lm_eval/rules", "all_kept"), "value"].isin([0.0, 1.0]).all()
    assert scores.loc[("lm_eval/rules", "all_kept"), "cut"] == 1.0  # four tokens of a model that does not stop


def test_tags_stand_for_their_tasks_and_none_is_named_twice(rows):
    named = load_tasks(HarnessParameters(tasks="ai2_arc", datasets={"ai2_arc": rows["arc_challenge"]}))
    assert named.shown == {"arc_easy": "lm_eval/arc_easy", "arc_challenge": "lm_eval/arc_challenge"}
    assert named.tasks["arc_easy"].get_config("num_fewshot") == 0
    datasets = {"arc_challenge": rows["arc_challenge"], "ai2_arc": rows["arc_challenge"]}
    with pytest.raises(ParameterError, match="arc_challenge is part of ai2_arc and of an earlier name"):
        load_tasks(HarnessParameters(tasks="arc_challenge ai2_arc", datasets=datasets))


def test_a_task_that_cannot_be_asked_is_refused_before_anything_is_computed(rows, tmp_path, monkeypatch):
    def refused(error, match, tasks, generating_only=False, **datasets):
        with pytest.raises(error, match=match):
            load_tasks(HarnessParameters(tasks=tasks, datasets=datasets), generating_only)

    refused(ParameterError, r"has no task 'gsm8k_cott' \(did you mean: gsm8k_cot,", "gsm8k_cott")
    refused(ParameterError, "runs_code runs code that the model writes", "runs_code", runs_code=rows["all"])
    refused(ParameterError, "package needs a package .*no_such_package.*pip install no_such_package", "package")
    refused(ParameterError, "left compares log-probs of text, which chat", "left", True, left=rows["all"])
    refused(
        DataError,
        r"gsm8k, .* cannot read its rows \(UndefinedError: 'answer' is undefined\)",
        "gsm8k",
        gsm8k=rows["arc_challenge"],
    )
    files = {"test": rows["gsm8k_cot"]["dataset_kwargs"]["data_files"]["test"]}
    one_split = {"dataset_path": "json", "dataset_kwargs": {"data_files": files}}
    refused(
        DataError,
        r"gsm8k, .* cannot read its rows \(KeyError: 'train'\): name data with the splits",
        "gsm8k",
        gsm8k=one_split,
    )
    nowhere = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "no.jsonl")}}}
    refused(DataError, r"rows of gsm8k, .*Unable to find .*no\.jsonl.*harness\.datasets\.gsm8k", "gsm8k", gsm8k=nowhere)
    absent = {"dataset_path": str(tmp_path / "copy")}
    refused(DataError, "rows of hellaswag, .*cannot be loaded: .*copy", "hellaswag", hellaswag=absent)
    with pytest.raises(ValueError, match=r"harness\.datasets: gsm8k is not among harness\.tasks \(left\)"):
        HarnessParameters(tasks="left", datasets={"gsm8k": rows["all"]})


def test_ifeval_says_what_it_needs(monkeypatch):
    import nltk

    def missing(*_):
        raise LookupError

    how = HarnessParameters(tasks="ifeval")
    monkeypatch.setattr(nltk.data, "find", missing)
    monkeypatch.setattr(nltk, "download", lambda *_, **__: False)
    with pytest.raises(ParameterError, match=r"ifeval needs NLTK's punkt_tab.*python -m nltk\.downloader punkt_tab"):
        load_tasks(how)
    monkeypatch.setattr(nltk.data, "find", lambda *_: "here")
    for name in [name for name in sys.modules if name.startswith("lm_eval.tasks.ifeval")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "langdetect", None)
    monkeypatch.setitem(sys.modules, "immutabledict", None)
    with pytest.raises(ParameterError, match=r"ifeval needs a package that is not installed .*lm_eval\[ifeval\]"):
        load_tasks(how)


def test_a_served_model_is_sent_the_messages(rows, monkeypatch):
    from chat_server import chat_server, reply

    datasets = {"gsm8k_cot": rows["gsm8k_cot"]}
    said = partial(reply, ("<think>0</think>The answer is 1. Q: The answer is 2.", {}))
    with chat_server(lambda request, number: said()) as (url, requests):
        served = ServedLM(ChatServer(url, "served", max_retries=0))
        for multiturn, n_messages in ((True, 5), (False, 1)):
            how = HarnessParameters(tasks="gsm8k_cot", num_fewshot=2, fewshot_as_multiturn=multiturn, datasets=datasets)
            scores, samples = measured(served, load_tasks(how))
            assert {len(request["messages"]) for request in requests} == {n_messages}
            assert set(samples["extracted"]) == {"1."} and set(scores["value"]) == {0.2}
            requests.clear()
