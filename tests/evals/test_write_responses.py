"""The table of answers to judged benchmarks: what was answered, what was thought, and what was cut."""

import json

import pandas as pd
import pytest

from rao_kedro.config.servers import JudgeParameters
from rao_kedro.evals.alpaca_eval.win_rates import model_outputs
from rao_kedro.evals.parameters import BenchmarkParameters
from rao_kedro.evals.responses import Response
from rao_kedro.evals.specs import ResponsesSpec
from rao_kedro.evals.tables import BenchmarkResponseTable
from rao_kedro.evals.write_responses import write_responses

SAID = {
    "Count to 2.": Response("<think>1, 2</think>\n\none, two"),
    "Count to 3.": Response("<think>1, 2, 3", "length"),
    "Count to 9.": Response("one, two, thr", "length"),
    "Count down.": Response("two, one"),
}


class Thinker:
    """A model that says what is written above."""

    def write(self, name, dialogues, sampling):
        return {key: SAID[messages[-1]["content"]] for key, messages in dialogues.items()}


@pytest.fixture
def answers(tmp_path):
    rows = [{"instruction": text, "output": "1", "generator": "base"} for text in SAID]
    (tmp_path / "baseline.json").write_text(json.dumps(rows))
    judge = JudgeParameters(model="judge", base_url="http://127.0.0.1:9/v1")
    how = {"baseline": str(tmp_path / "baseline.json")}
    benchmarks = BenchmarkParameters(names="alpaca_eval", alpaca_eval=how, judge=judge)
    spec = ResponsesSpec(method="rao", benchmarks=benchmarks, workspace=tmp_path)
    write_responses(spec, Thinker())
    return BenchmarkResponseTable.validate(pd.read_parquet(spec.responses_path))


def test_the_answer_is_told_apart_from_the_thinking_and_a_cut_thought_has_none(answers):
    assert answers["answer"].tolist() == ["one, two", "", "one, two, thr", "two, one"]
    assert answers["thinking"].tolist() == ["1, 2", "1, 2, 3", "", ""]
    assert answers["finish_reason"].tolist() == ["stop", "length", "length", "stop"]


def test_judges_of_alpaca_eval_see_outputs_without_thinking(answers):
    outputs = model_outputs(answers)["rao"]
    assert [row["output"] for row in outputs] == ["one, two", "", "one, two, thr", "two, one"]
