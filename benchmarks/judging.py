"""How long AlpacaEval's judging takes where the judge has answered already: 805 pairs in both orders.

    make bench-judging

The pairs are published ones. A first pass keeps an answer for each request; then they are judged again, and the address
of the server leads nowhere. Results go to benchmarks/results/judging.md.
"""

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import pandas as pd

from rao_kedro.config.servers import JudgeServerParameters
from rao_kedro.evals.alpaca_eval.judge import compare_with_baseline
from rao_kedro.files import write_text
from rao_kedro.judges.chat_completions import ChatServer
from rao_kedro.judges.judge import Judge
from rao_kedro.judges.replies import Reply, Token

HERE = Path(__file__).parent
REPLY = Reply(text="m", tokens=[Token(text="m", logprobs={"m": math.log(0.7), "M": math.log(0.3)})])


def main() -> None:
    """Measure, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    path = Path("../shared/data/alpaca_eval/annotations-claude-2.jsonl.gz")
    parser.add_argument("--annotations", type=Path, default=path, help="AlpacaEval annotations, JSON lines")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    columns = ["instruction", "output_1", "generator_1", "output_2", "generator_2"]
    compared = pd.read_json(options.annotations, lines=True)[columns]
    with tempfile.TemporaryDirectory() as cache:
        with patch.object(ChatServer, "send", lambda self, request, meter: REPLY):
            first = seconds(compared, Path(cache))
        kept = [seconds(compared, Path(cache)) for _ in range(options.repeats)]
        answers = len([*Path(cache).rglob("*.shard")])
    lines = [
        "# Judging from kept answers",
        "",
        f"`make bench-judging`: {len(compared)} pairs in both orders, {answers} answers.",
        "",
        "| pass | s | spread |",
        "| --- | --- | --- |",
        f"| answers arrive at once and are kept | {first:.1f} | |",
        f"| all answers are kept, median of {options.repeats} | {statistics.median(kept):.1f} "
        f"| {max(kept) - min(kept):.1f} |",
        "",
        "Goal: seconds.",
    ]
    write_text(options.results / "judging.md", "\n".join(lines) + "\n")


def seconds(compared: pd.DataFrame, cache: Path) -> float:
    """Return how long judging in both orders takes."""
    judge = Judge(JudgeServerParameters(model="judge", base_url="http://127.0.0.1:9/v1", max_retries=0), cache)
    started = time.perf_counter()
    for swapped in (False, True):
        assert compare_with_baseline(compared, judge, swapped)["preference"].notna().all()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
