"""AlpacaEval 2's pairwise judging: `weighted_alpaca_eval_gpt4_turbo`, with any judge that gives log-probs.

The prompt and the random order of the outputs (seeded by the instruction) come from the package `alpaca_eval`.
Requests, retries, kept judgments and their reading (`judges.scores`) are the business of `judges`. A judge that gives
no log-probs, or thinks first, names the better output instead.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

import pandas as pd

from rao_kedro.errors import DataError
from rao_kedro.evals.alpaca_eval.win_rates import import_package
from rao_kedro.judges.client import ChatSampling
from rao_kedro.judges.judge import ChatModel
from rao_kedro.judges.replies import Answer
from rao_kedro.judges.scores import read_first_token, read_last_line

TEMPLATE = Path("alpaca_eval_clf_gpt4_turbo") / "alpaca_eval_clf.txt"
SAMPLING = ChatSampling(max_tokens=1, temperature=1.0, top_logprobs=5)
TEXT_SAMPLING = ChatSampling(max_tokens=2048)
SWITCHED = "is_switched_outputs"


def pair_with_baseline(baseline: pd.DataFrame, model: pd.DataFrame) -> pd.DataFrame:
    """Put a model's outputs beside the baseline's.

    Args:
        baseline: AlpacaEval outputs `instruction, output, generator`; their order is kept.
        model: The model's outputs in the same columns, to all instructions or some. A column `unscored_reason`, where
            there is one, says why there is no output; it is "" where there is one.

    Returns:
        Columns `instruction, output_1, generator_1` (the baseline's), `output_2, generator_2` (the model's), and
        `unscored_reason` where the model has it. The index is that of the baseline's rows, by which the
        length-controlled win rate looks up difficulties.

    Raises:
        DataError: The model responded to an instruction that the baseline lacks, or twice to one.
    """
    columns = ["instruction", "output", "generator"]
    reasons = [name for name in ("unscored_reason",) if name in model]
    of_baseline, of_model = (
        table[names].set_index("instruction") for table, names in ((baseline, columns), (model, columns + reasons))
    )
    if strange := sorted(set(of_model.index) - set(of_baseline.index)):
        raise DataError(f"{len(strange)} instructions are not the baseline's, for example {strange[0][:80]!r}")
    if of_model.index.has_duplicates:
        raise DataError(f"{of_model.index[of_model.index.duplicated()][0][:80]!r} is answered twice")
    rows = baseline[columns].rename(columns={"output": "output_1", "generator": "generator_1"})
    joined = rows.join(of_model.rename(columns={"output": "output_2", "generator": "generator_2"}), on="instruction")
    return joined.dropna(subset="output_2")


def compare_with_baseline(
    compared: pd.DataFrame, judge: ChatModel, swapped: bool = False, verdict: Literal["logprobs", "text"] = "logprobs"
) -> pd.DataFrame:
    """Ask a judge which output of each pair is better.

    Args:
        compared: Table of `pair_with_baseline`. The judge is not asked about rows with an `unscored_reason`.
        judge: The judge.
        swapped: Show every pair in the order opposite to AlpacaEval's.
        verdict: What a preference is read from; see `JudgeParameters`.

    Returns:
        AlpacaEval's annotations: `compared` with `annotator`, `preference` in [1, 2] (NaN where the judge named neither
        output; 1.5, without asking, where both are equal), `unscored_reason` ("" where there is a preference) and
        `is_switched_outputs`, whether the model's output was shown first.
    """
    switched = _draw_order(compared) ^ swapped
    reasons = compared.get("unscored_reason", pd.Series("", index=compared.index))
    differ = (compared["output_1"] != compared["output_2"]) & (reasons == "")
    read = read_first_token if verdict == "logprobs" else read_last_line

    def unusable(answer: Answer) -> str:
        if verdict == "logprobs" and (answer.thinking or answer.thinking_was_cut):
            return "the judge thought before its verdict, so its first token is none: set the judge's verdict: text"
        named_neither = f"the judge named neither output: {answer.text[:200]!r}" if pd.isna(read(answer)) else ""
        return answer.failure(complete=verdict == "text") or named_neither

    sampling = SAMPLING if verdict == "logprobs" else TEXT_SAMPLING
    answers = judge.answers(make_dialogues(compared[differ], switched[differ]), sampling, unusable)
    asked = compared.index[differ]
    failures = pd.Series([unusable(answer) for answer in answers], index=asked, dtype=object)
    for_second = pd.Series([read(answer) for answer in answers], index=asked, dtype=float).where(failures == "")
    preference = for_second.where(~switched[differ], 3 - for_second).reindex(compared.index)
    return compared.assign(
        annotator=judge.model,
        preference=preference.where(differ | (reasons != ""), 1.5),
        unscored_reason=failures.reindex(compared.index).fillna(reasons),
        **{SWITCHED: switched},
    )


def make_dialogues(compared: pd.DataFrame, switched: pd.Series) -> list[list[Mapping[str, str]]]:
    """Return the dialogue that asks a judge about each pair.

    Args:
        compared: Table of `pair_with_baseline`.
        switched: Whether the model's output is shown first.
    """
    shown = compared.assign(
        output_1=compared["output_2"].where(switched, compared["output_1"]),
        output_2=compared["output_1"].where(switched, compared["output_2"]),
    )
    package = import_package("utils")
    return [package.prompt_to_chatml(prompt) for prompt in package.make_prompts(shown, _template())[0]]


def _draw_order(compared: pd.DataFrame) -> pd.Series:
    """Return whether AlpacaEval shows the model's output first: a coin toss, seeded by the instruction."""
    coin = import_package("processors").RandomSwitchTwoColumnsProcessor(
        ["output_1", "output_2"], random_seed_columns=["instruction"], _switch_column=SWITCHED, seed=0
    )
    return coin.preprocess(compared)[SWITCHED] if len(compared) else pd.Series(dtype=bool)


@cache
def _template() -> str:
    return (Path(import_package("constants").EVALUATORS_CONFIG_DIR) / TEMPLATE).read_text()
