"""Rows of downstream benchmarks: every real one, in the authors' format and in the hub's."""

import csv
import gzip
import json
import re
import zipfile
from collections import Counter

import pytest
import yaml
from assets import DOWNSTREAM_FILES, json_lines
from datasets import Dataset

from rao_kedro.errors import DataError, ParameterError
from rao_kedro.evals.downstream import sources
from rao_kedro.evals.downstream.formats import Item, arc, gsm8k, mathqa, mmlu, socialiqa
from rao_kedro.evals.downstream.harness import TASK_FILES
from rao_kedro.evals.downstream.parameters import TaskSource
from rao_kedro.evals.downstream.registry import TASKS
from rao_kedro.evals.downstream.sources import load_task, read_items

OPTIONS = "a ) 38 , b ) 27.675 , c ) 1,000 , d ) data inadequate , e ) none of these"
ROWS = {
    "gsm8k": {"question": "How many?", "answer": "2 * 500 = <<2*500=1000>>1000\n#### 1,000"},
    "arc_easy": {
        "id": "Mercury_1",
        "question": "Why?",
        "choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]},
        "answerKey": "3",
    },
    "mathqa": {"Problem": "what ?", "options": OPTIONS, "correct": "c"},
    "socialiqa": {
        "context": "It is so.",
        "question": "Why?",
        "answerA": "a",
        "answerB": "b",
        "answerC": "c",
        "label": "2",
    },
    "mmlu": {"question": "Which?", "choices": ["a", "b", "c", "d"], "answer": 3, "subject": "anatomy"},
}


def mmlu_subjects():
    group = (TASK_FILES / "rao_mmlu.yaml").read_text().replace("!function", "")
    return [task["dataset_kwargs"]["subject"] for task in yaml.safe_load(group)["task"]]


@pytest.mark.parametrize(
    ("task", "counts"),
    [
        ("gsm8k", {0: 173}),
        ("arc_easy", {4: 159, 3: 7, 5: 4}),
        ("arc_challenge", {4: 160, 3: 4, 5: 3}),
        ("mathqa", {5: 242}),
        ("socialiqa", {3: 160}),
    ],
)
def test_every_real_item_has_its_choices_and_a_gold_answer_among_them(task, counts):
    items = read(task)
    assert Counter(len(item.choices) for item in items) == counts
    assert len({item.item_id for item in items}) == len(items)
    for item in items:
        assert item.question.strip() and all(choice.strip() for choice in item.choices)
        if item.choices:
            assert item.gold in "ABCDE"[: len(item.choices)]
        else:
            assert re.fullmatch(r"-?\d+(\.\d+)?", item.gold)


def test_every_real_mmlu_item_has_four_choices_and_its_subject_five_examples():
    subjects = mmlu_subjects()
    assert len(set(subjects)) == 57
    counts = Counter()
    for split, total in {"test": 171, "dev": 285, "val": 114}.items():
        for subject in subjects:
            items = read_items("mmlu", TaskSource(path=str(DOWNSTREAM_FILES["mmlu"])), subject, split)
            assert {(len(item.choices), item.gold in "ABCD", item.subject) for item in items} == {(4, True, subject)}
            assert split != "dev" or len(items) == 5
            counts[split] += len(items)
        assert counts[split] == total


def test_the_gold_answers_are_those_of_the_files():
    # Read another way: the number behind the last mark, and the text behind the name of the right choice.
    answers = [row["answer"] for row in json_lines(DOWNSTREAM_FILES["gsm8k"])]
    assert [float(item.gold) for item in read("gsm8k")] == [
        float(answer.split("#### ")[1].replace(",", "")) for answer in answers
    ]
    for task in ("arc_easy", "arc_challenge"):
        for row, item in zip(json_rows(task), read(task), strict=True):
            number, text = row["answer"].removeprefix("answer"), item.choices["ABCDE".index(item.gold)]
            assert f"Answer{number}: {text}" in row["instruction"]
    rows = json_lines(DOWNSTREAM_FILES["socialiqa"])
    labels = DOWNSTREAM_FILES["socialiqa"].with_name("socialiqa-dev-labels.lst").read_text().split()
    for row, label, item in zip(rows, labels, read("socialiqa"), strict=True):
        assert row[f"answer{'ABC'[int(label) - 1]}"].strip() == item.choices["ABC".index(item.gold)]


def test_mathqa_options_put_together_again_are_the_published_ones():
    rows, items = json_rows("mathqa"), read("mathqa")
    for row, item in zip(rows, items, strict=True):
        published = re.sub(r"\b([a-e] \) )\1", r"\1", row["options"])  # "a ) a ) 2" in some rows
        separator, around = (" , ", "{}") if published[0] != "[" else ("', '", "['{}']")
        together = separator.join(f"{letter} ) {text}" for letter, text in zip("abcde", item.choices, strict=True))
        assert around.format(together).split() == published.split()
    listed = [item.choices for row, item in zip(rows, items, strict=True) if row["options"].startswith("[")]
    assert listed[0] == ("2 : 3", "4 : 5", "16 : 9", "7 : 9", "8 : 5") and len(listed) == 66
    assert ("4 inches", "6 inches", "5 inches", "8 inches", "10 inches") in listed  # ['a ) a ) 4 inches', ...]


def read(task):
    return read_items(task, TaskSource(path=str(DOWNSTREAM_FILES[task])))


def json_rows(task):
    with gzip.open(DOWNSTREAM_FILES[task]) as file:
        return json.load(file)


def test_hub_schemas_give_the_same_items():
    assert gsm8k(ROWS["gsm8k"], "1") == Item("1", "How many?", (), "1000")
    assert arc(ROWS["arc_easy"], "1") == Item("Mercury_1", "Why?", ("a", "b", "c"), "C")
    lettered = {"choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}
    assert arc(ROWS["arc_easy"] | lettered, "1").gold == "B"
    choices = ("38", "27.675", "1,000", "data inadequate", "none of these")
    assert mathqa(ROWS["mathqa"], "1") == Item("1", "what ?", choices, "C")
    assert socialiqa(ROWS["socialiqa"], "1") == Item("1", "Why?", ("a", "b", "c"), "B", "It is so.")
    assert mmlu(ROWS["mmlu"], "1") == Item("1", "Which?", ("a", "b", "c", "d"), "D", "", "anatomy")
    assert mmlu(ROWS["mmlu"] | {"answer": "A"}, "1").gold == "A"


def test_without_a_source_the_usual_datasets_of_the_hub_are_asked(monkeypatch):
    asked = []

    def load(*names, split, revision):
        asked.append((*names, split, revision))
        return Dataset.from_list([ROWS[current]])

    monkeypatch.setattr(sources, "load_dataset", load)
    for current in ROWS:
        assert len(read_items(current)) == 1
    load_task("mmlu", "anatomy", {"mmlu": {"revision": "old"}}, version=1)
    current = "socialiqa"
    read_items(current, TaskSource(hub_id="allenai/social_i_qa", revision="refs/convert/parquet"))
    assert asked == [
        ("openai/gsm8k", "main", "test", "740312add88f781978c0658806c59bc2815b9866"),
        ("allenai/ai2_arc", "ARC-Easy", "test", "210d026faf9955653af8916fad021475a3f00453"),
        ("regisss/math_qa", None, "test", None),
        ("lighteval/siqa", None, "validation", "54c6a1f8cb6daf4f5abf24a601852612fb35eb25"),
        ("cais/mmlu", None, "test", "c30699e8356da336a370243923dbaf21066bb9fe"),
        ("cais/mmlu", "anatomy", "test", "old"),
        ("cais/mmlu", "anatomy", "dev", "old"),
        ("allenai/social_i_qa", None, "validation", "refs/convert/parquet"),
    ]


def test_a_dataset_that_the_hub_does_not_give_is_named(monkeypatch):
    def load(*_, **__):
        raise RuntimeError("Dataset scripts are no longer supported")

    monkeypatch.setattr(sources, "load_dataset", load)
    with pytest.raises(DataError, match=r"'openai/gsm8k' \(subset 'main', split 'test'\).*set `path`.*scripts"):
        read_items("gsm8k")


def test_a_directory_of_mmlu_reads_like_its_archive(tmp_path):
    rows = [['One,\r\n"two"?', "a", "b", "c", "d", "B"], [" Stays as it is? ", "1", "2", "3", "4", "D"]]
    (tmp_path / "data/test").mkdir(parents=True)
    with (tmp_path / "data/test/anatomy_test.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    with zipfile.ZipFile(tmp_path / "mmlu.zip", "w") as archive:
        archive.write(tmp_path / "data/test/anatomy_test.csv", "data/test/anatomy_test.csv")
    expected = [
        Item("anatomy:1", 'One,\r\n"two"?', ("a", "b", "c", "d"), "B", subject="anatomy"),
        Item("anatomy:2", " Stays as it is? ", ("1", "2", "3", "4"), "D", subject="anatomy"),
    ]
    for path in (tmp_path, tmp_path / "mmlu.zip"):
        assert read_items("mmlu", TaskSource(path=str(path)), "anatomy") == expected
        with pytest.raises(DataError, match=r"has no data/test/virology_test\.csv"):
            read_items("mmlu", TaskSource(path=str(path)), "virology")


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("gsm8k", {"answer": "It is 7."}, "expected `#### number`"),
        ("gsm8k", {"answer": "#### seven"}, "expected `#### number`"),
        ("gsm8k", {"question": " "}, "question is not a text"),
        ("arc_easy", {"answerKey": "D"}, "answerKey is 'D', which is not one of 1, 2, 3"),
        ("arc_easy", {"choices": {"text": ["a"], "label": ["3"]}}, "there are 1 choices"),
        ("arc_easy", {"instruction": "Why?"}, "does not list its choices"),
        ("mathqa", {"options": "a ) 1 , b ) 2"}, "are not five"),
        ("mathqa", {"correct": "f"}, "correct is 'f'"),
        ("socialiqa", {"label": "0"}, "label is '0'"),
        ("socialiqa", {"label": None}, "there is no column 'label'"),
    ],
)
def test_a_row_that_does_not_fit_stops_the_task_and_is_named(tmp_path, task, change, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[task]) + "\n" + json.dumps(ROWS[task] | change))
    with pytest.raises(DataError, match=f"row 2 is not a row of {task}.*{re.escape(message)}"):
        read_items(task, TaskSource(path=str(path)))


def test_files_that_are_missing_empty_or_do_not_match_are_named(tmp_path):
    path = tmp_path / "dev.jsonl"
    with pytest.raises(DataError, match="there is no such file"):
        read_items("gsm8k", TaskSource(path=str(path)))
    path.write_text("")
    with pytest.raises(DataError, match="has no rows of gsm8k"):
        read_items("gsm8k", TaskSource(path=str(path)))
    path.write_text("no json")
    with pytest.raises(DataError, match="'no json' is not a JSON object"):
        read_items("gsm8k", TaskSource(path=str(path)))
    path.write_text(json.dumps(ROWS["socialiqa"]))
    (tmp_path / "dev-labels.lst").write_text("1\n2\n")
    with pytest.raises(DataError, match="has 2 labels for the 1 rows"):
        read_items("socialiqa", TaskSource(path=str(path)))


def test_every_task_has_a_reader_and_an_unknown_one_lists_them():
    assert set(TASKS) == {file.stem.removeprefix("rao_") for file in TASK_FILES.glob("rao_*.yaml")}
    for task in TASKS:
        with pytest.raises(DataError, match="there is no such file"):
            read_items(task, TaskSource(path="/nowhere"))
    with pytest.raises(ParameterError, match=f"'squad': choose one of {', '.join(TASKS)}"):
        read_items("squad")
