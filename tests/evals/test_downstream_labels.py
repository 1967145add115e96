"""The extraction of answers against labels of real outputs.

`labelled_outputs.jsonl` holds what SmolLM2-135M-Instruct, fine-tuned for an epoch on 173 UltraFeedback responses, wrote
greedily (at most 512 tokens, vLLM, bf16) to the first 40 items of five tasks. A reader labelled each output before the
extraction was shown (seven labels of long outputs were mended when these were read whole), by this rule: the answer of
the last statement that gives one, letter before text; none where that statement is the prompt's `The answer is X.`,
where the output only lists choices, or where it breaks off without a statement. The extraction was mended on these
outputs, so the agreement is no estimate for others.
"""

import json
from pathlib import Path

import pytest

from rao_kedro.evals.downstream.answers import LabelledOutput, agreement
from rao_kedro.evals.downstream.number_answers import parse_number
from rao_kedro.evals.downstream.sources import read_items
from rao_kedro.schemas.benchmarks import TaskSource

SHARED = Path(__file__).parents[2] / "../shared/data"
FILES = {
    "gsm8k": "gsm8k/test.jsonl.gz",
    "arc_easy": "arc/ARC-Easy-test.json.gz",
    "arc_challenge": "arc/ARC-Challenge-test.json.gz",
    "mathqa": "mathqa/test.json.gz",
    "socialiqa": "socialiqa/dev.jsonl.gz",
}


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is not here")
def test_the_extraction_reads_what_a_reader_reads():
    rows = [json.loads(line) for line in Path(__file__).with_name("labelled_outputs.jsonl").open()]
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
    assert len(table) == 200 and len(wrong) <= 3, wrong[["task", "output", "label", "extracted"]].to_string()
