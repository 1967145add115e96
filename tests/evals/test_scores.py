"""Methods on benchmarks: values by hand, paired differences, layouts."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from rao_kedro.evals.alpaca_eval.benchmark import AlpacaEval, AlpacaEvalParameters
from rao_kedro.evals.alpaca_eval.tables import AlpacaEvalAnnotationTable
from rao_kedro.evals.downstream.figures import accuracy_bars
from rao_kedro.evals.downstream.tables import DownstreamSampleTable, DownstreamScoreTable
from rao_kedro.evals.mt_bench.benchmark import MTBench
from rao_kedro.evals.mt_bench.tables import MTBenchComparisonTable, MTBenchJudgmentTable
from rao_kedro.evals.results import Results
from rao_kedro.evals.scores import (
    benchmark_scores,
    downstream_table,
    harness_table,
    judge_report,
    preference_table,
)
from rao_kedro.evals.tables import BenchmarkAnswerTable, BenchmarkScoreTable, JudgeReportTable
from rao_kedro.judges.scores import combine_orders
from rao_kedro.reporting.benchmark_report import benchmark_report, cut_sentences

BENCHMARKS = [AlpacaEval(AlpacaEvalParameters(gamed=None)), MTBench()]
NO_JUDGMENTS = {dataset: schema.empty() for benchmark in BENCHMARKS for dataset, schema in benchmark.tables.items()}


def score(runs):
    return BenchmarkScoreTable.validate(benchmark_scores(runs, BENCHMARKS))


def report_judges(runs):
    return JudgeReportTable.validate(judge_report(runs, BENCHMARKS))


def annotations(method, *preferences, swapped=None, judge="gpt"):
    n = len(preferences)
    table = pd.DataFrame(
        {
            "index": range(n),
            "instruction": [f"i{k}" for k in range(n)],
            "output_1": "base",
            "generator_1": "base",
            "output_2": [f"{'x' * (k + 1)}" for k in range(n)],
            "generator_2": method,
            "annotator": judge,
            "preference": list(preferences),
            "preference_swapped": [np.nan] * n if swapped is None else swapped,
            "is_switched_outputs": [k % 2 == 0 for k in range(n)],
            "unscored_reason": "",
            "unscored_reason_swapped": "",
        }
    )
    return AlpacaEvalAnnotationTable.validate(table)


def judgments(method, *scores):
    about = [(method, 81 + k // 2, "writing" if k < 2 else "math", 1 + k % 2) for k in range(len(scores))]
    rows = [(*of, "gpt", "p", "j", score) for of, score in zip(about, scores, strict=True)]
    columns = ["method", "question_id", "category", "turn", "judge", "user_prompt", "judgment", "score"]
    table = pd.DataFrame(rows, columns=columns).astype({"score": float}).assign(unscored_reason="")
    return MTBenchJudgmentTable.validate(table)


def comparisons(method, *winners):
    rows = [
        (method, 81 + k // 2, "writing", 1 + k % 2, "gpt", "j", "j", *both, combine_orders(*both), "")
        for k, both in enumerate(winners)
    ]
    return MTBenchComparisonTable.validate(pd.DataFrame(rows, columns=list(MTBenchComparisonTable.to_schema().columns)))


def samples(method, *correct):
    about = [(method, "arc_easy", "accuracy", str(k), "p", "o", "stop") for k in range(len(correct))]
    rows = [
        (*of, "A" if right else None, "A", float(right), right, "") for of, right in zip(about, correct, strict=True)
    ]
    return DownstreamSampleTable.validate(pd.DataFrame(rows, columns=list(DownstreamSampleTable.to_schema().columns)))


def scores(method, *correct):
    value, n = float(np.mean(correct)), len(correct)
    interval = (max(value - 0.2, 0), min(value + 0.2, 1))
    row = (method, "arc_easy", "accuracy", value, True, 0.1, *interval, n, n - sum(correct), 0.25, 0.0, 0.0, "1")
    return DownstreamScoreTable.validate(pd.DataFrame([row], columns=list(DownstreamScoreTable.to_schema().columns)))


def answers(method, *reasons):
    """Answers to AlpacaEval that ended as the reasons say."""
    rows = [(method, "alpaca_eval", str(k), 1, f"i{k}", "x" * (k + 1)) for k in range(len(reasons))]
    columns = ["method", "benchmark", "item_id", "turn", "prompt", "answer"]
    return pd.DataFrame(rows, columns=columns).assign(finish_reason=list(reasons))


def results(method, preferences, marks, correct, swapped=None, winners=(), reasons=("stop", "stop", "stop")):
    judged = {
        "alpaca_eval_annotations": annotations(method, *preferences, swapped=swapped),
        "mt_bench_judgments": judgments(method, *marks),
        "mt_bench_comparisons": comparisons(method, *winners) if winners else MTBenchComparisonTable.empty(),
    }
    return Results(judged, scores(method, *correct), samples(method, *correct), answers(method, *reasons))


def together(*runs):
    judged = {dataset: pd.concat([run.judged[dataset] for run in runs]) for dataset in NO_JUDGMENTS}
    return Results(judged, *(pd.concat(tables) for tables in zip(*(run[1:] for run in runs), strict=True))).by_run()


def with_judged(run, **tables):
    return run._replace(judged={**run.judged, **tables})


WINNERS = [("a", "b"), ("a", "a"), ("b", "a"), (None, "b")]
ENDS = ["length", "stop", "stop"]
RESULTS = together(
    results("sft", [1.0, 1.5, 2.0], [4, 6, 8, 8], [True, False, False, True]),
    results("rao", [2.0, np.nan, 2.0], [6, 8, 9, np.nan], [True, True, False, True], [1.0, 1.0, 2.0], WINNERS, ENDS),
)


@pytest.fixture(scope="module")
def table():
    return score(RESULTS)


def test_values_and_paired_differences_are_what_hand_arithmetic_gives(table):
    found = table.set_index(["method", "benchmark", "metric"])
    wins = found.loc[("rao", "alpaca_eval", "win_rate")]
    # Pairs that both have: 0 (100 - 0) and 2 (100 - 100).
    assert (wins["value"], wins["n"], wins["unscored"], wins["vs_sft"]) == (100.0, 2, 1, 50.0)
    marks = found.loc[("rao", "mt_bench", "score")]
    # Questions: 7 and 9, against 5 and 8.
    assert (marks["value"], marks["unscored"], marks["vs_sft"], marks["judge"]) == (8.0, 1, 1.5, "gpt")
    assert found.loc[("rao", "mt_bench", "score_math"), "value"] == 9.0
    assert found.loc[("rao", "mt_bench", "score_turn_1"), "value"] == 7.5
    accuracy = found.loc[("rao", "arc_easy", "accuracy")]
    assert (accuracy["value"], accuracy["vs_sft"], accuracy["chance"], accuracy["unscored"]) == (75.0, 25.0, 25.0, 1)
    assert np.isnan(accuracy["vs_dpo"]) and found.loc[("sft", "arc_easy", "accuracy"), "vs_sft"] == 0.0
    assert found.loc[("rao", "alpaca_eval", "mean_length"), "value"] == 2.0


def test_a_table_reads_back_from_the_catalogs_csv_as_it_was_written(table, tmp_path):
    catalog = Path(__file__).parents[2] / "conf/base/catalog/evaluation.yml"
    how = yaml.safe_load(catalog.read_text())["benchmark_scores"]["load_args"]
    table.to_csv(tmp_path / "scores.csv", index=False)
    pd.testing.assert_frame_equal(BenchmarkScoreTable.validate(pd.read_csv(tmp_path / "scores.csv", **how)), table)


def test_the_papers_tables_show_n_and_interval(table):
    preferences, downstream = preference_table(table), downstream_table(table)
    assert list(preferences.index) == ["sft", "rao"]
    shown = preferences.loc["sft", "alpaca_eval win_rate"]
    assert shown.startswith("50.00 [") and shown.endswith("(n = 3, gpt)")
    assert downstream.loc["rao", "average"] == "75.00"


def test_a_judge_whose_scores_cannot_be_read_gives_no_number():
    of_sft = with_judged(RESULTS["sft"], mt_bench_judgments=judgments("sft", np.nan, np.nan))
    shown = preference_table(score({"sft": of_sft}))
    assert shown.loc["sft", "mt_bench score"] == "nothing to read (n = 0, gpt)"


def test_figures_name_the_judge_and_n_and_survive_what_was_not_chosen(table):
    win_rates, radar = (benchmark.figure(table) for benchmark in BENCHMARKS)
    assert "judged by gpt" in win_rates.layout.title.text
    assert {trace.name for trace in radar.data} == {"sft", "rao"} and "writing" in radar.data[0].theta
    bars = accuracy_bars(table)
    assert [trace.name for trace in bars.data] == ["sft", "rao", "chance"] and "n up to 4" in bars.layout.title.text
    nothing = BenchmarkScoreTable.empty()
    for figure in (*(benchmark.figure for benchmark in BENCHMARKS), accuracy_bars):
        assert "not chosen" in figure(nothing).layout.title.text and not figure(nothing).data


def test_position_bias_is_reported_where_both_orders_were_judged():
    report = report_judges(RESULTS).set_index(["method", "metric"])
    assert "first_preferred" not in report.loc["sft"].index
    # Pair 0 is won in one order only, pair 2 in both, and of pair 1 one order is missing.
    assert report.loc[("rao", "consistent"), ["value", "n"]].tolist() == [0.5, 2]


def test_a_comparison_with_sft_counts_ties_half_and_leaves_out_what_cannot_be_read(table):
    found = table.set_index(["method", "benchmark", "metric"]).loc[("rao", "mt_bench", "win_rate_vs_sft")]
    # Question 81: won, and a tie since the orders disagree; 82: lost, and one verdict missing.
    assert (found["value"], found["n"], found["unscored"]) == (37.5, 2, 1)
    report = report_judges(RESULTS).set_index(["method", "metric"])
    # Consistent are one of two turns of 81, and the turn of 82 that has both verdicts.
    assert report.loc[("rao", "mt_bench_consistent"), ["value", "n"]].tolist() == [0.75, 2]


def test_a_second_judge_changes_no_score_and_its_agreement_is_reported(table):
    first = RESULTS["rao"]
    second = annotations("rao", 2.0, 1.0, 1.0, judge="llama")
    annotated = pd.concat([first.judged["alpaca_eval_annotations"], second], ignore_index=True)
    both = {"rao": with_judged(first, alpaca_eval_annotations=annotated)}
    wins = score(both).set_index(["benchmark", "metric"]).loc[("alpaca_eval", "win_rate")]
    assert (wins["value"], wins["n"], wins["judge"]) == (100.0, 2, "gpt")
    report = report_judges(both).set_index("metric")
    assert report.loc["agreement", ["judge", "value", "n"]].tolist() == ["gpt and llama", 0.5, 2]


def test_runs_of_one_method_are_one_row_over_their_mean_by_item():
    """Accuracies of 75 and 25 % are 50 %, by item 100, 50, 0 and 50; over seeds the error is 25, and t 12.706."""
    again = results("rao_seed_1", [2.0, 1.0, 1.0], [6, 8, 9, 9], [True, False, False, False], reasons=ENDS)
    runs = RESULTS | again.by_run()
    table = score(runs).set_index(["method", "benchmark", "metric"])
    assert set(table.index.get_level_values("method")) == {"sft", "rao"}
    accuracy = table.loc[("rao", "arc_easy", "accuracy")]
    assert accuracy[["value", "seeds", "n", "vs_sft", "unscored"]].tolist() == [50.0, 2, 4, 0.0, 4]
    assert accuracy[["seeds_low", "seeds_high"]].tolist() == [0.0, 100.0]  # cut off at the bounds
    assert accuracy[["vs_sft_seeds_low", "vs_sft_seeds_high"]].tolist() == [-100.0, 100.0]
    same = score({"x": RESULTS["rao"]._replace(samples=samples("x", True, True, False, True))})
    assert accuracy["low"] != same.set_index(["benchmark", "metric"]).loc[("arc_easy", "accuracy"), "low"]
    marks = table.loc[("rao", "mt_bench", "score")]
    assert marks["value"] == pytest.approx(8.0) and marks["n"] == 2 and marks["unscored"] == 1
    length = table.loc[("rao", "alpaca_eval", "mean_length")]
    assert length["value"] == 2.0 and table.loc[("sft", "arc_easy", "accuracy"), "seeds"] == 1
    assert np.isnan(table.loc[("sft", "arc_easy", "accuracy"), "seeds_low"])
    report = report_judges(runs).set_index(["method", "metric"])
    # The judge's longer_preferred is over the three instructions, each with an output of either run.
    assert report.loc[("rao", "longer_preferred"), "n"] == 3 and not report.index.duplicated().any()


def test_an_output_that_a_server_refused_has_no_length_and_an_empty_one_has():
    table = annotations("x", 2.0, np.nan, 1.0).assign(output_2=["xxx", "", ""], unscored_reason=["", "refused", ""])
    found = score({"x": with_judged(RESULTS["rao"], alpaca_eval_annotations=table)}).set_index("metric")
    assert found.loc["mean_length", ["value", "n"]].tolist() == [1.5, 2]


def test_cut_responses_are_told_by_benchmark(table):
    found = table.set_index(["method", "benchmark", "metric"])["cut"]
    assert (
        found["rao", "alpaca_eval", "win_rate"] == pytest.approx(1 / 3) and found["sft", "alpaca_eval", "win_rate"] == 0
    )
    assert found["rao", "arc_easy", "accuracy"] == 0
    ended = RESULTS["rao"]
    ended = ended._replace(samples=ended.samples.assign(finish_reason=["length", "stop", "length", "stop"]))
    scored = score({"rao": ended}).set_index(["benchmark", "metric"])["cut"]
    assert scored["arc_easy", "accuracy"] == 0.5
    unwritten = ended._replace(samples=ended.samples.assign(finish_reason=None))  # log-probs of choices
    assert np.isnan(score({"rao": unwritten}).set_index("metric")["cut"]["accuracy"])
    assert scored["alpaca_eval", "win_rate"] == pytest.approx(1 / 3)


def test_the_report_says_in_words_what_was_cut_and_shows_first_runs_only(table):
    assert cut_sentences(table) == [
        "alpaca_eval: cut at the token limit were 0.0 % of sft's, 33.3 % of rao's responses."
    ]
    written = pd.concat([answers("rao", *ENDS), answers("rao_seed_1", *ENDS).assign(answer="of another seed")])
    verdicts = {"alpaca_eval": {("rao", "0", 1): "liked"}}
    html = benchmark_report(
        table, {"All metrics": table}, {}, written, DownstreamSampleTable.empty(), verdicts, examples=2
    )
    assert html.count("liked") == 1 and html.count("not judged") == 1
    assert "33.3 % of rao&#39;s responses" in html and "of another seed" not in html


def test_a_task_of_several_subjects_is_compared_over_the_items_of_all():
    """An item's id is the same in two subjects; both count."""

    def of_subjects(method, *correct):
        tasks = ["mmlu::law", "mmlu::law", "mmlu::virology", "mmlu::virology"]
        items = samples(method, *correct).assign(task=tasks, item_id=["0", "1", "0", "1"])
        row = scores(method, *correct).assign(task="mmlu")
        return RESULTS["sft"]._replace(samples=items.drop(columns="method"), scores=row.drop(columns="method"))

    runs = {"sft": of_subjects("sft", True, False, False, False), "rao": of_subjects("rao", True, False, True, True)}
    row = score(runs).set_index(["method", "benchmark"]).loc[("rao", "mmlu")]
    assert row[["value", "n", "vs_sft"]].tolist() == [75.0, 4, 50.0]


def test_a_metric_that_is_no_share_of_right_samples_keeps_its_own_interval():
    of_sft = RESULTS["sft"]._replace(scores=scores("sft", True, False).assign(metric="acc_norm"))  # of unknown items
    row = score({"sft": of_sft}).set_index("metric").loc["acc_norm"]
    assert row[["value", "low", "high", "n"]].tolist() == [50.0, 30.0, 70.0, 2]


def test_a_metric_that_is_no_share_is_not_shown_in_percent_and_paired_as_it_is():
    def with_perplexity(method, *values):
        of_items = samples(method, *[False] * len(values)).assign(
            task="lm_eval/wikitext", metric="word_perplexity", value=values
        )
        row = scores(method, True, False).assign(
            task="lm_eval/wikitext",
            metric="word_perplexity",
            value=float(np.mean(values)),
            is_share=False,
            low=1.0,
            high=9.0,
        )
        return Results(NO_JUDGMENTS, row, of_items, BenchmarkAnswerTable.empty()).by_run()[method]

    both = {"sft": with_perplexity("sft", 6.0, 8.0), "rao": with_perplexity("rao", 5.0, 5.0)}
    found = score(both).set_index("method")
    # 6 and 8 differ by 2, so t of one degree of freedom, 12.706, makes the interval; equal values have none.
    assert found.loc["sft", ["value", "low", "high"]].tolist() == pytest.approx(
        [7.0, 7 - 12.7062, 7 + 12.7062], abs=1e-4
    )
    assert found.loc["rao", ["value", "vs_sft"]].tolist() == [5.0, -2.0] and np.isnan(found.loc["rao", "low"])
    assert harness_table(score(both)).columns.tolist() == ["lm_eval/wikitext word_perplexity"]
    assert downstream_table(score(both)).empty


def test_nothing_chosen_gives_empty_tables():
    tables = (DownstreamScoreTable, DownstreamSampleTable, BenchmarkAnswerTable)
    nothing = Results(NO_JUDGMENTS, *(table.empty() for table in tables))
    assert nothing.by_run() == {}
    assert score({"sft": nothing}).empty and report_judges({"sft": nothing}).empty


@pytest.mark.parametrize("layout", [preference_table, downstream_table, harness_table])
def test_a_layout_of_benchmarks_that_nobody_was_measured_on_is_empty(layout):
    scores = BenchmarkScoreTable.empty()
    assert layout(scores[scores["benchmark"] == "alpaca_eval"]).reset_index().empty
