"""The report and its figures."""

import numpy as np
import pandas as pd
import pytest
from leaderboards import row

from rao_kedro.reporting.figures import scores_by_method, training_dynamics
from rao_kedro.reporting.report import headline, headlines, html_report
from rao_kedro.reporting.reward_figures import reward_calibration
from rao_kedro.rewards.reliability import accuracy_by_gap, target_grid
from rao_kedro.statistics import MIN_VERDICT_N

SEEDS = {"seeds": 3, "rule_score_gain_seeds_low": -0.02, "rule_score_gain_seeds_high": 0.22}
SEEDS |= {"rule_score_seeds_low": 0.6, "rule_score_seeds_high": 1.0}
CUT = {"cut": 0.055, "gain_finished": 0.08, "gain_finished_low": 0.02, "gain_finished_high": 0.14, "n_finished": 71}
LEADERBOARD = pd.DataFrame([row("rao", 0.8, 0.1, 0.05, 0.15), row("sft", 0.7, 0.0, 0.0, 0.0)])
SEVERAL = pd.DataFrame([row("rao", 0.8, 0.1, 0.05, 0.15, **SEEDS, **CUT), row("sft", 0.7, 0.0, 0.0, 0.0, cut=0.23)])


def generations(text, end="stop"):
    return pd.DataFrame(
        [
            {
                "prompt_id": "p",
                "sample": 0,
                "prompt": "Say <b>",
                "response": text,
                "rule_score": 1.0,
                "reward": np.nan,
                "finish_reason": end,
            }
        ]
    )


def page(text="fine"):
    return html_report(
        LEADERBOARD,
        {"Scores": scores_by_method(LEADERBOARD)},
        {"sft": generations("plain"), "rao": generations(text)},
        {"Data": pd.DataFrame({"a": ["<i>"]})},
        examples=3,
    )


def test_model_text_is_escaped():
    html = page("<script>alert(1)</script>")
    assert "<script>alert(1)" not in html and "&lt;script&gt;alert(1)" in html
    assert "Say &lt;b&gt;" in html and "&lt;i&gt;" in html


def test_the_page_says_when_methods_did_not_see_the_same_responses():
    assert "not trained on the same responses" not in page()
    board = pd.concat([LEADERBOARD, pd.DataFrame([row("dpo", 0.8, 0.1, 0.05, 0.15)])])
    html = html_report(board, {}, {"sft": generations("plain")}, {}, examples=0)
    assert "not trained on the same responses: rao saw 4 a prompt, dpo saw 2 a prompt." in html
    assert html.count('<td class="number">2.0</td>') == 1


def test_the_page_needs_no_network():
    html = page()
    assert 'src="http' not in html and "<link" not in html
    assert html.count("Plotly.newPlot(") >= 1


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((0.05, 0.15), "better than"), ((-0.1, -0.05), "worse than"), ((-0.1, 0.1), "not distinguishable from")],
)
def test_the_headline_claims_only_what_the_interval_allows(interval, verdict):
    assert f"rao is {verdict} sft on 100 held-out prompts" in headline(row("rao", 0.8, 0.1, *interval))


def test_without_rules_the_headline_is_about_the_reward():
    said = headline(row("rao", float("nan"), np.nan, np.nan, np.nan, judge="reward"))
    assert "rao is better than sft on 100 held-out prompts: reward 1.000, +0.500 against sft" in said


def test_a_few_prompts_allow_no_verdict():
    said = headline(row("rao", 0.8, 0.1, 0.05, 0.15, n=MIN_VERDICT_N - 1))
    assert said.startswith(
        "rao gets no verdict against sft on 19 held-out prompts, fewer than the 20 that a verdict needs"
    )
    equal = headline(row("rao", np.nan, np.nan, np.nan, np.nan, judge="reward", reward_gain_low=np.nan))
    assert "no verdict" in equal and "all differences are the same" in equal and "(no interval)" in equal


def test_a_headline_says_which_prompts_its_judge_covers():
    said = headline(row("rao", 0.8, 0.1, 0.05, 0.15, n_judged=80, n_rule_score=80))
    assert "better than sft on the 80 of 100 held-out prompts that have requirements: rule score 0.800" in said


def test_what_cut_responses_and_seeds_do_to_the_gain_is_said_in_words():
    [(_, more)] = headlines(SEVERAL)
    assert more == (
        "5.5 % of its responses were cut at the token limit, and 23.0 % of sft's; between finished responses the gain "
        "is +0.080 (95 % interval +0.020 to +0.140), on the 71 prompts on which both have some. Over 3 training seeds "
        "the gain is +0.100 (95 % interval over seeds -0.020 to +0.220). The interval over seeds holds 0: with another "
        "seed there may be no difference."
    )
    assert headlines(LEADERBOARD)[0][1] == ""
    html = html_report(
        SEVERAL,
        {},
        {"sft": generations("s"), "rao": generations("r"), "rao_seed_1": generations("of another seed")},
        {},
        3,
    )
    assert "on the 71 prompts" in html and "seeds<br>[0.600, 1.000]" in html and "5.5 %" in html
    assert "of another seed" not in html  # side by side stands each method's first run
    assert "cut at the token limit</span>" not in html
    assert "cut at the token limit</span>" in html_report(SEVERAL, {}, {"sft": generations("s", "length")}, {}, 3)


def test_prompts_without_requirements_get_a_second_win_rate_in_the_page():
    mixed = LEADERBOARD.assign(n_rule_score=80, n_judged=80, reward_win_rate_vs_sft=0.61)
    html = html_report(mixed, {}, {"sft": generations("s")}, {}, 0)
    assert "win rate by reward" in html and "0.61" in html and "n = 80" in html
    assert "win rate by reward" not in page()


def test_training_dynamics_draws_what_the_logs_hold_with_evaluations_as_markers():
    log = pd.DataFrame(
        {"step": [0, 1, 2, 2], "loss": [np.nan, 1.0, 0.5, np.nan], "eval_loss": [1.1, np.nan, np.nan, 0.6]}
    )
    figure = training_dynamics({"rao": log})
    lines, markers = figure.data
    assert (list(lines.x), list(lines.y), lines.mode) == ([1, 2], [1.0, 0.5], "lines")
    assert (list(markers.x), list(markers.y), markers.mode) == ([0, 2], [1.1, 0.6], "markers")


def test_runs_of_a_method_have_its_colour_and_other_methods_have_others():
    log = pd.DataFrame({"step": [1, 2], "loss": [1.0, 0.5]})
    lines = training_dynamics({"simpo": log, "simpo_seed_1": log, "ppo": log, "rao": log}).data
    colors = {line.name: line.line.color for line in lines}
    assert colors["simpo"] == colors["simpo_seed_1"] and len(set(colors.values())) == 3
    assert {line.name: line.opacity < 1 for line in lines}["simpo_seed_1"] and lines[0].opacity == 1


def test_intervals_over_seeds_are_drawn_beside_those_over_prompts():
    points = scores_by_method(SEVERAL).data
    [seeds] = [point for point in points if point.marker.symbol == "diamond-open"]
    assert (seeds.x[0], seeds.error_y.array[0], seeds.error_y.arrayminus[0]) == (
        "rao",
        pytest.approx(0.2),
        pytest.approx(0.2),
    )
    assert "training seeds" in scores_by_method(SEVERAL).layout.title.text
    assert "seeds" not in scores_by_method(LEADERBOARD).layout.title.text
    titles = {note.text for note in scores_by_method(LEADERBOARD).layout.annotations}
    assert "Win rate against SFT by rule score" in titles


def test_intervals_are_drawn_from_the_point_to_the_bounds():
    bar = scores_by_method(LEADERBOARD).data[0]
    assert (bar.error_y.array[0], bar.error_y.arrayminus[0]) == pytest.approx((0.05, 0.05))


@pytest.mark.parametrize("splits", [("train", "test"), ("train",)])
def test_the_calibration_shows_chosen_and_rejected_gaps_accuracy_lengths_and_targets(splits):
    table = pd.DataFrame(
        {
            "split": [splits[0], splits[-1]],
            "rewards": [[1.0, 2.0, 0.0], [3.0, -1.0]],
            "ratings": [[0.0, 1.0, 0.5], [1.0, 0.0]],
            "response_lengths": [[1, 2, 1], [1, 1]],
            "chosen": [1, 0],
            "rejected": [0, 1],
            "reward_transforms": "[]",
        }
    )
    figure = reward_calibration(table, accuracy_by_gap(table), target_grid(table, [0.1], [0.0, 20.0]))
    chosen, rejected, gaps, *accuracies, lengths, targets = figure.data
    counted = [[round(x) for x, n in zip(bars.x, bars.y, strict=True) if n] for bars in (chosen, rejected, gaps)]
    assert counted == [[2, 3], [-1, 1], [1, 4]] and sum(chosen.y) == sum(rejected.y) == sum(gaps.y) == 2
    assert [trace.name for trace in accuracies] == [f"pairs of {split}" for split in splits]
    assert sorted(zip(lengths.x, lengths.y, strict=True)) == [(1, -1.0), (1, 0.0), (1, 1.0), (1, 3.0), (2, 2.0)]
    assert targets.z.tolist() == [[1.0, 0.5 if len(splits) == 1 else 0.0]]  # above 0 and above 2
