"""Rows of public reward benchmarks. A response says its own score: "answer 2.5" is scored 2.5."""

import json

from rao_kedro.config.data_engineering import PreferenceSource
from rao_kedro.data.tables import QuarantineTable
from rao_kedro.evals.reward_benchmarks.benchmarks import read_benchmark
from rao_kedro.evals.reward_benchmarks.rewardbench import SUBSETS


def said(*scores):
    return [f"answer {score}" for score in scores]


def pair(subset, n=0, chosen=1, rejected=0):
    [good, bad] = said(chosen, rejected)
    return {"id": n, "prompt": "Hi?", "chosen": good, "rejected": bad, "subset": subset}


def best_of(item_id, subset, chosen=(1,), rejected=(0, -1, -2)):
    counts = {"num_correct": len(chosen), "num_incorrect": len(rejected)}
    texts = {"chosen": said(*chosen), "rejected": said(*rejected)}
    return {"id": item_id, "prompt": "Hi?", **texts, "subset": subset, **counts}


def styles(domain, n=0, chosen=(1, 2, 3), rejected=(0, -1, -2)):
    return {"id": n, "prompt": "Hi?", "chosen": said(*chosen), "rejected": said(*rejected), "domain": domain}


def judged(source, n=0, a=1, b=0, label="A>B"):
    [first, second] = said(a, b)
    return {
        "pair_id": n,
        "question": "Hi?",
        "response_A": first,
        "response_B": second,
        "label": label,
        "source": source,
    }


def answers(*scores):
    return [{"llm_name": "x", "answer": text} for text in said(*scores)]


def compared(path, n="0", chosen=1, rejected=0):
    [chosen, reject] = answers(chosen, rejected)
    chat = [{"role": "user", "content": "Hi?", "language": "English"}]
    return {"pair_uid": n, "conversation_input": chat, "chosen": chosen, "reject": reject, "category_path": path}


def best_of_answers(path, n="0", best=1, losers=(0, -1)):
    chat = [{"role": "user", "content": "Hi?", "language": "English"}]
    best = {"bon_best": answers(best)[0], "loser_list": answers(*losers)}
    return {"bon_uid": n, "conversation_input": chat, **best, "category_path": path}


COMPLETE = {
    "rewardbench": [pair(subset) for subsets in SUBSETS.values() for subset in subsets],
    "rewardbench2": [
        *(best_of("1", subset) for subset in ("Factuality", "Precise IF", "Math", "Safety", "Focus")),
        best_of("ref:1", "Ties"),
        best_of("tied:1", "Ties", chosen=(1, 1)),
    ],
    "rm_bench": [styles(domain) for domain in ("chat", "code", "math", "safety-refuse", "safety-response")],
    "judgebench": [
        judged(source) for source in ("mmlu-pro-law", "livebench-reasoning", "livebench-math", "livecodebench")
    ],
    "rmb": [
        compared("Pairwise_set/Helpfulness/Chat/Discussion"),
        compared("Pairwise_set/Harmlessness/S1"),
        best_of_answers("BoN_set/Helpfulness/Chat/Discussion"),
        best_of_answers("BoN_set/Harmlessness/S1"),
    ],
}


def read_rows_of(tmp_path, name, rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    items, quarantined = read_benchmark(name, PreferenceSource(path=str(path)))
    QuarantineTable.validate(quarantined)
    return items, quarantined
