"""The extraction of answers against labels of real outputs.

`labelled_outputs.jsonl` holds what was written greedily (at most 512 tokens, vLLM, bf16) to items of five tasks, 40 of
each at a time. The set `development`: items 1 to 40, by SmolLM2-135M-Instruct fine-tuned for an epoch on 173
UltraFeedback responses; 501 to 540 and 901 to 940, by SmolLM2-135M-Instruct itself. The set `test`: 601 to 640, by the
same. The extraction was mended on the first, and not on the second.

Readers saw neither the extraction nor each other's labels; the first two parts of `development` had one reader, the
others two each, who are language models, and who agree in 198 and 200 of 200 (the other two were settled by the rule).
The rule: the answer of the last statement that gives one, letter before text; none where that is the prompt's
`The answer is X.`, none of the choices or several of them, where the output only lists choices, or where it breaks off
without a statement.
"""

import json
from pathlib import Path

import pytest

from rao_kedro.config.benchmarks import TaskSource
from rao_kedro.evals.downstream.answers import LabelledOutput, agreement
from rao_kedro.evals.downstream.number_answers import parse_number
from rao_kedro.evals.downstream.sources import read_items

SHARED = Path(__file__).parents[2] / "../shared/data"
FILES = {
    "gsm8k": "gsm8k/test.jsonl.gz",
    "arc_easy": "arc/ARC-Easy-test.json.gz",
    "arc_challenge": "arc/ARC-Challenge-test.json.gz",
    "mathqa": "mathqa/test.json.gz",
    "socialiqa": "socialiqa/dev.jsonl.gz",
}


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is not here")
@pytest.mark.parametrize(("name", "n"), [("development", 600), ("test", 200)])
def test_the_extraction_reads_what_a_reader_reads(name, n):
    rows = [json.loads(line) for line in Path(__file__).with_name("labelled_outputs.jsonl").open()]
    rows = [row for row in rows if row["set"] == name]
    items = {
        (task, item.item_id): item
        for task, path in FILES.items()
        for item in read_items(task, TaskSource(path=str(SHARED / path)))
    }
    labelled = []
    for row in rows:
        item = items[row["task"], row["item_id"]]
        label = row["label"] if item.choices or row["label"] is None else parse_number(row["label"])
        labelled.append(LabelledOutput(row["task"], item.question, row["output"], tuple(item.choices), label))
    table = agreement(labelled)
    wrong = table[~table["agrees"]]
    assert len(table) == n and len(wrong) <= n // 100, wrong[["task", "output", "label", "extracted"]].to_string()
