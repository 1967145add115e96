"""The extraction of answers against labels of real outputs.

`labelled_outputs.jsonl.gz` holds responses (greedy, at most 512 tokens, vLLM, bf16) to items of five tasks: 160 items
of each, at positions 1 to 40, 501 to 540, 601 to 640 and 901 to 940 of the published files. SmolLM2-135M-Instruct wrote
those to items 1 to 40 after an epoch of fine-tuning on 173 UltraFeedback responses, all others as it is. The set `test`
(items 601 to 640) was held out while the extraction was developed; all other items are the set `development`.

The labels are readers' (language models), who saw neither the extraction nor each other's labels. Items 1 to 40 and 501
to 540 had one reader. The others had two, who agreed on 198 of 200 and 200 of 200 outputs; the rule below settled the
other two. The rule: the label is the answer of the last statement that gives one, by its letter before its text. There
is no label where that statement is the prompt's own `The answer is X.`, names none of the choices or several, where the
output only lists the choices, or where it breaks off without a statement.
"""

import pytest
from assets import DOWNSTREAM_FILES, json_lines

from rao_kedro.evals.downstream.answers import LabelledOutput, agreement
from rao_kedro.evals.downstream.number_answers import parse_number
from rao_kedro.evals.downstream.parameters import TaskSource
from rao_kedro.evals.downstream.sources import read_items


@pytest.mark.parametrize(("name", "n"), [("development", 600), ("test", 200)])
def test_the_extraction_reads_what_a_reader_reads(name, n):
    rows = [row for row in json_lines("downstream/labelled_outputs.jsonl.gz") if row["set"] == name]
    items = {
        (task, item.item_id): item
        for task, path in DOWNSTREAM_FILES.items()
        if task != "mmlu"
        for item in read_items(task, TaskSource(path=str(path)))
    }
    labelled = []
    for row in rows:
        item = items[row["task"], row["item_id"]]
        label = row["label"] if item.choices or row["label"] is None else parse_number(row["label"])
        labelled.append(LabelledOutput(row["task"], item.question, row["output"], tuple(item.choices), label))
    table = agreement(labelled)
    wrong = table[~table["agrees"]]
    assert len(table) == n and len(wrong) <= n // 100, wrong[["task", "output", "label", "extracted"]].to_string()
