"""The whole way from a model's answers to the table, with published lengths, preferences and win rates."""

import json
import math
import re

import pandas as pd
import pytest
from assets import alpaca_annotations, alpaca_table

from rao_kedro.config.servers import JudgeParameters
from rao_kedro.evals.alpaca_eval.benchmark import AlpacaEval, AlpacaEvalParameters, LengthControl
from rao_kedro.evals.downstream.tables import DownstreamSampleTable, DownstreamScoreTable
from rao_kedro.evals.judging import judge_answers
from rao_kedro.evals.parameters import BenchmarkParameters
from rao_kedro.evals.responses import Response
from rao_kedro.evals.results import Results
from rao_kedro.evals.scores import benchmark_scores
from rao_kedro.evals.specs import ResponsesSpec
from rao_kedro.evals.write_responses import write_responses
from rao_kedro.judges.chat_completions import ChatServer
from rao_kedro.judges.replies import Reply, Token

METHOD = "claude-2"
SHOWN = re.compile(r'"output": """(.*)"""\n    },\n.*"output": """(.*)"""\n    }\n}\n\n## Task', re.DOTALL)


class Replay:
    """A model that answers what it answered."""

    def __init__(self, outputs):
        self.outputs = outputs

    def write(self, name, dialogues, sampling):
        return {key: Response(self.outputs[messages[-1]["content"]]) for key, messages in dialogues.items()}


def test_a_published_models_answers_get_its_published_win_rates(tmp_path, monkeypatch):
    published = alpaca_annotations(METHOD).to_dict("records")
    baseline = [
        {"instruction": row["instruction"], "output": row["output_1"], "generator": row["generator_1"]}
        for row in published
    ]
    (tmp_path / "baseline.json").write_text(json.dumps(baseline))
    judge = JudgeParameters(model="published", base_url="http://127.0.0.1:9/v1")
    how = AlpacaEvalParameters(baseline=str(tmp_path / "baseline.json"))
    benchmarks = BenchmarkParameters(names="alpaca_eval", alpaca_eval=how, judge=judge)
    spec = ResponsesSpec(method=METHOD, benchmarks=benchmarks, workspace=tmp_path)
    write_responses(spec, Replay({row["instruction"]: row["output_2"] for row in published}))

    preference = {(row["output_1"], row["output_2"]): row["preference"] for row in published}

    def judged(server, request, meter):
        asked = request["messages"][-1]["content"]
        first, second = SHOWN.search(asked).groups()
        for_second = preference[first, second] - 1 if (first, second) in preference else 2 - preference[second, first]
        logprobs = {"m": math.log(max(1 - for_second, 1e-300)), "M": math.log(max(for_second, 1e-300))}
        return Reply(text="m", tokens=[Token(text="m", logprobs=logprobs)])

    monkeypatch.setattr(ChatServer, "send", judged)
    answers = pd.read_parquet(spec.responses_path)
    found = judge_answers(answers, benchmarks, tmp_path / "judge")
    downstream = (DownstreamScoreTable.empty(), DownstreamSampleTable.empty())
    results = Results(found.tables, *downstream, answers)
    control = LengthControl(alpaca_table("instruction_difficulty_recovered.csv"), alpaca_table("gamed_surrogate.csv"))
    benchmark = AlpacaEval()
    benchmark.length_control = control
    scores = benchmark_scores(results.by_run(), [benchmark]).set_index("metric")
    leaderboard = alpaca_table("published_leaderboard.csv").set_index("model").loc[METHOD]
    assert scores.loc["win_rate", ["n", "unscored", "judge"]].tolist() == [805, 0, "published"]
    assert scores.loc["win_rate", "value"] == pytest.approx(leaderboard["win_rate"], abs=1e-6)
    assert scores.loc["length_controlled_win_rate", "value"] == pytest.approx(
        leaderboard["length_controlled_winrate"], abs=0.2
    )
    assert scores.loc["win_rate", "low"] < leaderboard["win_rate"] < scores.loc["win_rate", "high"]
