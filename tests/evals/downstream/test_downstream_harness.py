"""Downstream tasks through lm-evaluation-harness, with models that answer by rule."""

import csv
import io
import json
import logging
import math
import re
import zipfile

import numpy as np
import pytest
from assets import DOWNSTREAM_FILES, json_lines
from lm_eval.api.model import LM
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from rao_kedro.errors import DataError, GenerationError, ParameterError
from rao_kedro.evals.downstream.harness import TASK_FILES, run
from rao_kedro.evals.downstream.harness_model import Written
from rao_kedro.evals.downstream.parameters import ChainOfThoughtParameters, TaskSource
from rao_kedro.evals.downstream.registry import TASKS
from rao_kedro.evals.downstream.sources import read_items
from rao_kedro.evals.downstream.tables import DownstreamSampleTable, DownstreamScoreTable
from rao_kedro.evals.responses import Response


class Rule(LM):
    """Says what a function of the item and its number says; the function names the right letter of MMLU, too."""

    def __init__(self, say):
        super().__init__()
        self.say, self.asked = say, []

    def generate_until(self, requests):
        self.asked += requests
        return [self.say(request.doc, request.doc_id) for request in requests]

    def loglikelihood(self, requests):
        self.asked += requests
        return [(-0.5 if r.args[1].strip() in self.say(r.doc, r.doc_id) else -2.0, False) for r in requests]

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError


def ours(table):
    """The rows of this project's extraction."""
    return table[table["metric"] == "accuracy"]


def right(doc, _=0):
    return f"Let me think.\n\nThe answer is {doc['gold']}."


def wrong(doc, _=0):
    return f"The answer is {next(c for c in 'AB' if c != doc['gold']) if doc['choices'] else int(doc['gold']) + 1}."


def silent(doc, _=0):
    return "I do not know."


def every_third(doc, number):
    return (right, wrong, silent)[number % 3](doc)


def numbers(n=4):
    return [{"question": f"How many, {i}?", "answer": f"It is so.\n#### {i}"} for i in range(1, n + 1)]


def science():
    return [
        {"question": f"Why {n}?", "choices": {"text": list("uvwxy"[:n]), "label": list("ABCDE"[:n])}, "answerKey": "C"}
        for n in (3, 4, 5)
    ]


SOCIAL = {
    "context": "Ann left.",
    "question": "Why?",
    "answerA": "hunger",
    "answerB": "rain",
    "answerC": "joy",
    "label": "2",
}


def jsonl(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return TaskSource(path=str(path))


def mmlu_archive(tmp_path):
    """Five examples and one question per subject; of anatomy three."""
    subjects = [
        line.split("subject: ")[1].rstrip("}\n")
        for line in (TASK_FILES / "rao_mmlu.yaml").open()
        if "subject: " in line
    ]
    path = tmp_path / "mmlu.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for subject in subjects:
            for split, n in {"dev": 5, "test": 3 if subject == "anatomy" else 1}.items():
                text = io.StringIO(newline="")
                rows = [[f" {subject} {split} {i}?\nWhich?", *"wxyz", "ABCD"[i % 4]] for i in range(n)]
                csv.writer(text).writerows(rows)
                archive.writestr(f"data/{split}/{subject}_{split}.csv", text.getvalue())
    return TaskSource(path=str(path))


@pytest.mark.parametrize(
    ("say", "value", "unparsed", "extracted"), [(right, 1, 0, "1"), (wrong, 0, 0, "2"), (silent, 0, 4, None)]
)
def test_accuracy_is_1_0_and_0_with_the_outputs_without_an_answer_counted(tmp_path, say, value, unparsed, extracted):
    scores, samples = run(Rule(say), ["gsm8k"], {"gsm8k": jsonl(tmp_path, numbers())})
    DownstreamScoreTable.validate(scores.assign(method="rao"))
    DownstreamSampleTable.validate(samples.assign(method="rao"))
    [row] = ours(scores).to_dict("records")
    samples = ours(samples)
    assert (row["task"], row["metric"], row["value"], row["n"], row["unparsed"]) == (
        "gsm8k",
        "accuracy",
        value,
        4,
        unparsed,
    )
    assert row["chance"] == 0 and row["stderr"] == 0 and row["num_fewshot"] == 0 and row["version"] == "2"
    first = samples.iloc[0]
    assert first["prompt"].startswith("How many, 1?\n\nThink step by step.") and first["output"] == say(
        {"gold": "1", "choices": []}
    )
    assert (first["item_id"], first["gold"], first["correct"]) == ("1", "1", bool(value))
    assert first["extracted"] == extracted or (extracted is None and samples["extracted"].isna().all())


def test_errors_are_those_of_a_proportion(tmp_path):
    # 4 of 10 right: sqrt(0.4 * 0.6 / 9) = 0.163299. Clopper and Pearson: the chance of 4 or more is 0.025 at 0.121552,
    # that of 4 or fewer at 0.737622.
    scores = run(Rule(every_third), ["gsm8k"], {"gsm8k": jsonl(tmp_path, numbers(10))}).scores
    [row] = ours(scores).to_dict("records")
    assert (row["value"], row["unparsed"], row["n"]) == (0.4, 3, 10)
    assert row["stderr"] == pytest.approx(0.163299, abs=1e-6)
    assert (row["low"], row["high"]) == pytest.approx((0.121552, 0.737622), abs=1e-6)


def test_chance_is_the_mean_over_questions_with_unlike_numbers_of_choices(tmp_path):
    lm = Rule(right)
    scores, _ = run(lm, ["arc_easy"], {"arc_easy": jsonl(tmp_path, science())})
    assert scores["chance"][0] == pytest.approx((1 / 3 + 1 / 4 + 1 / 5) / 3) and scores["value"][0] == 1
    assert "A. u\nB. v\nC. w\n\nThink" in lm.asked[0].args[0] and "D. x\nE. y\n\nThink" in lm.asked[2].args[0]


def test_a_response_is_as_long_as_the_parameter_says(tmp_path):
    lm = Rule(right)
    source = jsonl(tmp_path, numbers(1))
    run(lm, ["gsm8k"], {"gsm8k": source}, chain_of_thought=ChainOfThoughtParameters(max_tokens=2048))
    assert lm.asked[0].args[1] == {"until": [], "do_sample": False, "temperature": 0.0, "max_gen_toks": 2048}


SAID = {
    1: "She has 1 egg. The answer is 1.",
    2: "The answer is $2",  # the harness's strict pattern knows no dollar
    3: "It is 3 in all",  # flexible and ours
    4: "The answer is 4, of 5.",  # its flexible extraction takes the last number
    5: "<think>The answer is 5.",  # a cut thought
    6: "<think>5 or 6</think>The answer is 6.",
    1000: "The answer is 1,000.",
}


def test_gsm8k_has_the_harnesss_strict_and_flexible_extraction_beside_ours(tmp_path):
    rows = [{"question": "How many?", "answer": f"So.\n#### {number:,}"} for number in SAID]
    scores, samples = run(Rule(lambda doc, _: SAID[int(doc["gold"])]), ["gsm8k"], {"gsm8k": jsonl(tmp_path, rows)})
    right = samples.pivot(index="item_id", columns="metric", values="correct").sort_index()
    assert right["accuracy"].tolist() == [True, True, True, True, False, True, True]
    assert right["strict-match"].tolist() == [True, False, False, True, False, True, True]
    assert right["flexible-extract"].tolist() == [True, True, True, False, False, True, True]
    found = scores.set_index("metric")
    assert found["unparsed"].to_dict() == {"accuracy": 1, "strict-match": 3, "flexible-extract": 1}
    assert found.loc["strict-match", "value"] == pytest.approx(4 / 7) and (found["n"] == 7).all()


def test_gold_numbers_are_those_that_the_harness_compares_with():
    path = str(DOWNSTREAM_FILES["gsm8k"])
    rows = [row["answer"] for row in json_lines(path)]
    theirs = [re.sub(r",|\$|\.$", "", row.rpartition("#### ")[2]) for row in rows]
    assert [item.gold for item in read_items("gsm8k", TaskSource(path=path))] == theirs


def test_how_many_responses_were_cut_is_counted(tmp_path):
    def say(doc, number):
        response = Response(f"<think>so</think>The answer is {doc['gold']}.", "length" if number == 1 else "stop")
        return Written.read(response, [])

    scores, samples = run(Rule(say), ["gsm8k"], {"gsm8k": jsonl(tmp_path, numbers(4))})
    assert (scores["cut"] == 0.25).all()
    assert ours(samples)["finish_reason"].tolist() == ["stop", "length", "stop", "stop"]
    assert samples["output"].iloc[0] == "<think>so</think>The answer is 1."
    # Log-probs of letters are no text that could be cut.
    scores, samples = run(Rule(right), ["mmlu"], {"mmlu": mmlu_archive(tmp_path)})
    assert scores["cut"].isna().all() and samples["finish_reason"].isna().all() and scores["num_fewshot"].eq(5).all()
    DownstreamSampleTable.validate(samples.assign(method="rao"))


def test_generation_is_greedy_and_the_prompt_holds_everything_but_the_answer(tmp_path):
    lm = Rule(right)
    run(lm, ["socialiqa"], {"socialiqa": jsonl(tmp_path, [SOCIAL])})
    prompt, how = lm.asked[0].args
    assert how == {"until": [], "do_sample": False, "temperature": 0.0, "max_gen_toks": 512}
    assert prompt == (
        "Ann left.\n\nWhy?\n\nA. hunger\nB. rain\nC. joy\n\nThink step by step. Then end with a line "
        '"The answer is X.", where X is the letter of the right choice.'
    )


def published_prompt(subject, examples, question):
    """The prompt as evaluate.py of hendrycks/test puts it together."""

    def example(row):
        return (
            row[0] + "".join(f"\n{letter}. {text}" for letter, text in zip("ABCD", row[1:5], strict=True)) + "\nAnswer:"
        )

    name = "".join(f" {entry}" for entry in subject.split("_"))
    head = f"The following are multiple choice questions (with answers) about {name}.\n\n"
    return head + "".join(f"{example(row)} {row[5]}\n\n" for row in examples) + example(question)


def test_mmlu_asks_the_published_prompt_for_the_likeliest_letter(tmp_path):
    source = mmlu_archive(tmp_path)
    lm = Rule(right)
    run(lm, ["mmlu"], {"mmlu": source})
    subject = "high_school_world_history"
    asked = [request for request in lm.asked if request.doc["subject"] == subject]
    with zipfile.ZipFile(source.path) as archive:
        dev, test = (
            list(csv.reader(io.StringIO(archive.read(f"data/{split}/{subject}_{split}.csv").decode(), newline="")))
            for split in ("dev", "test")
        )
    expected = published_prompt(subject, dev, test[0])
    assert [request.args for request in asked] == [(expected, f" {letter}") for letter in "ABCD"]


def test_mmlu_is_the_mean_over_questions_and_has_its_subjects_too(tmp_path):
    # 56 subjects with one question, all right; of anatomy's three only the one with gold A: 57 of 59.
    def say(doc, _):
        return doc["gold"] if doc["subject"] != "anatomy" else "A"

    scores, samples = run(Rule(say), ["mmlu"], {"mmlu": mmlu_archive(tmp_path)})
    values = scores.set_index("task")
    assert len(values) == 58 and values.index[0] == "mmlu"
    assert (values.loc["mmlu", "value"], values.loc["mmlu", "n"]) == (pytest.approx(57 / 59), 59)
    assert (values.loc["mmlu::anatomy", "value"], values.loc["mmlu::anatomy", "n"]) == (pytest.approx(1 / 3), 3)
    assert math.isnan(values.loc["mmlu::virology", "stderr"]) and (values["chance"] == 0.25).all()
    last = samples[samples["task"] == "mmlu::anatomy"].iloc[2]
    assert json.loads(last["output"]) == {"A": -0.5, "B": -2.0, "C": -2.0, "D": -2.0}
    assert (last["item_id"], last["gold"], last["extracted"], last["correct"]) == ("anatomy:3", "C", "A", False)


def test_the_task_files_give_the_harness_itself_the_same_numbers(tmp_path):
    sources = {"gsm8k": jsonl(tmp_path, numbers(10)), "mmlu": mmlu_archive(tmp_path)}
    values = ours(run(Rule(every_third), list(sources), sources).scores).set_index("task")
    metadata = {"sources": {task: source.model_dump() for task, source in sources.items()}}
    manager = TaskManager(include_path=str(TASK_FILES), include_defaults=False, metadata=metadata)
    found = simple_evaluate(Rule(every_third), tasks=["rao_gsm8k", "rao_mmlu"], task_manager=manager)["results"]
    assert found["rao_gsm8k"]["acc,answer"] == values.loc["gsm8k", "value"]
    assert found["rao_gsm8k"]["acc_stderr,answer"] == pytest.approx(values.loc["gsm8k", "stderr"])
    assert found["rao_gsm8k"]["acc,strict-match"] == values.loc["gsm8k", "value"]
    assert found["rao_gsm8k"]["unparsed,answer"] == values.loc["gsm8k", "unparsed"] / 10
    assert found["rao_mmlu"]["acc,none"] == pytest.approx(values.loc["mmlu", "value"])
    assert found["rao_mmlu::anatomy"]["acc_stderr,none"] == pytest.approx(values.loc["mmlu::anatomy", "stderr"])


def test_all_tasks_run_on_real_rows():
    sources = {task: TaskSource(path=str(path)) for task, path in DOWNSTREAM_FILES.items()}
    scores, samples = map(ours, run(Rule(right), sources=sources, limit=2))
    assert list(scores["task"][:6]) == list(TASKS) and list(scores["n"][:6]) == [2] * 5 + [2 * 57]
    assert (scores["value"] == 1).all() and (scores["unparsed"] == 0).all() and samples["correct"].all()
    assert len(samples) == 2 * 5 + 2 * 57 and samples["prompt"].is_unique


def test_a_run_seeds_nothing_and_leaves_logging_as_it_was(tmp_path, monkeypatch):
    logger, state = logging.getLogger("lm_eval"), np.random.get_state()[1].tolist()
    monkeypatch.setattr(logger, "level", logging.INFO)
    run(Rule(right), ["gsm8k"], {"gsm8k": jsonl(tmp_path, numbers())}, limit=1)
    assert np.random.get_state()[1].tolist() == state and logger.level == logging.INFO


def test_what_cannot_be_measured_is_named(tmp_path):
    known = ", ".join(TASKS)
    for tasks, sources in ((["squad"], {}), (["gsm8k"], {"squad": TaskSource(path="x")})):
        with pytest.raises(ParameterError, match=f"unknown downstream task 'squad': choose one of {known}"):
            run(Rule(right), tasks, sources)
    for tasks, limit in (([], None), (["gsm8k"], 0)):
        with pytest.raises(ParameterError, match="nothing to measure"):
            run(Rule(right), tasks, limit=limit)
    with pytest.raises(DataError, match="there is no such file"):
        run(Rule(right), ["gsm8k"], {"gsm8k": TaskSource(path="/nowhere.jsonl")})
    lm = Rule(right)
    lm.loglikelihood = lambda requests: [(math.nan, False) for _ in requests]
    with pytest.raises(GenerationError, match=r"mmlu::abstract_algebra, item abstract_algebra:1: .*nan"):
        run(lm, ["mmlu"], {"mmlu": mmlu_archive(tmp_path)})
