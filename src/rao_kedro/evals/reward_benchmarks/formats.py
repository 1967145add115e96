"""What the rows of public reward benchmarks look like: one function per benchmark, from a row to an item.

Knows nothing about files, rewards and scores.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rao_kedro.data.messages import read_text
from rao_kedro.data.quarantine import QuarantineReason, UnusableRow

Row = Mapping[str, Any]

ALL = "all"

# Subsets and the prompts that each counts for: SUBSET_MAPPING and EXAMPLE_COUNTS of allenai/reward-bench,
# rewardbench/constants.py. math-prm has 447 prompts, and counts as much as the six subsets of code together.
REWARDBENCH = {
    "Chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 250,
        "xstest-should-respond": 154,
        "donotanswer": 136,
    },
    "Reasoning": {
        "math-prm": 984,
        "hep-cpp": 164,
        "hep-go": 164,
        "hep-java": 164,
        "hep-js": 164,
        "hep-python": 164,
        "hep-rust": 164,
    },
}
REWARDBENCH_SECTION = {subset: section for section, subsets in REWARDBENCH.items() for subset in subsets}
TIES = "Ties"
REWARDBENCH2 = ("Factuality", "Precise IF", "Math", "Safety", "Focus", TIES)
RM_BENCH = ("chat", "code", "math", "safety")
JUDGEBENCH = {
    "mmlu-pro": "Knowledge",
    "livebench-reasoning": "Reasoning",
    "livebench-math": "Math",
    "livecodebench": "Coding",
}
RMB = ("Helpfulness pairwise", "Helpfulness best-of-N", "Harmlessness pairwise", "Harmlessness best-of-N")


@dataclass(frozen=True)
class BenchmarkItem:
    """A prompt of a benchmark, the responses to prefer, and the others.

    Attributes:
        item_id: The benchmark's own name for it, which no other item of its subset has.
        section: What the benchmark reports apart: a section, domain, category or goal.
        subset: A part of the section; "all" where it has none.
        messages: The dialogue up to the last message of the user.
        chosen: Responses to prefer.
        rejected: Responses to prefer them to.
    """

    item_id: str
    section: str
    subset: str
    messages: tuple[dict[str, str], ...]
    chosen: tuple[str, ...]
    rejected: tuple[str, ...]


def rewardbench(row: Row) -> BenchmarkItem:
    """Read RewardBench (allenai/reward-bench): prompt, chosen, rejected, subset, id."""
    subset = str(_value(row, "subset"))
    _check_known("subset", subset, REWARDBENCH_SECTION)
    return BenchmarkItem(
        str(_value(row, "id")),
        REWARDBENCH_SECTION[subset],
        subset,
        _messages(row, "prompt"),
        (_text(row, "chosen"),),
        (_text(row, "rejected"),),
    )


def rewardbench2(row: Row) -> BenchmarkItem:
    """Read RewardBench 2 (allenai/reward-bench-2): id, prompt, lists chosen and rejected, num_correct, subset.

    The id of a prompt of the subset Ties is `ref:n` or `tied:n`.
    """
    item_id, subset = str(_value(row, "id")), str(_value(row, "subset"))
    _check_known("subset", subset, REWARDBENCH2)
    chosen, rejected = _texts(row, "chosen"), _texts(row, "rejected")
    n_correct = row.get("num_correct", len(chosen)) if subset == TIES else 1
    if len(chosen) != n_correct:
        raise UnusableRow(QuarantineReason.BAD_TYPE, f"{len(chosen)} chosen responses where {n_correct} are correct")
    if subset == TIES and not re.fullmatch(r"(ref|tied):\d+", item_id):
        raise UnusableRow(QuarantineReason.BAD_TYPE, f"id {item_id!r} of the subset Ties is neither ref:n nor tied:n")
    return BenchmarkItem(item_id, subset, ALL, _messages(row, "prompt"), chosen, rejected)


def rm_bench(row: Row) -> BenchmarkItem:
    """Read RM-Bench (THU-KEG/RM-Bench): id, prompt, domain, and chosen and rejected in three styles each.

    The styles are concise, detailed and detailed with markdown, in this order; the domains safety-refuse and
    safety-response are subsets of safety.
    """
    domain = str(_value(row, "domain"))
    section = domain.split("-")[0]
    _check_known("domain", section, RM_BENCH)
    chosen, rejected = _texts(row, "chosen"), _texts(row, "rejected")
    if (len(chosen), len(rejected)) != (3, 3):
        detail = f"{len(chosen)} chosen and {len(rejected)} rejected responses; both have three styles"
        raise UnusableRow(QuarantineReason.BAD_TYPE, detail)
    subset = ALL if domain == section else domain
    return BenchmarkItem(str(_value(row, "id")), section, subset, _messages(row, "prompt"), chosen, rejected)


def judgebench(row: Row) -> BenchmarkItem:
    """Read JudgeBench (ScalerLab/JudgeBench): pair_id, question, response_A, response_B, label, source."""
    source, label = str(_value(row, "source")), str(_value(row, "label"))
    prefix = next((prefix for prefix in JUDGEBENCH if source.startswith(prefix)), source)
    _check_known("source", prefix, JUDGEBENCH)
    _check_known("label", label, ("A>B", "B>A"))
    best, worst = label.split(">")
    return BenchmarkItem(
        str(_value(row, "pair_id")),
        JUDGEBENCH[prefix],
        ALL if source == prefix else source,
        _messages(row, "question"),
        (_text(row, f"response_{best}"),),
        (_text(row, f"response_{worst}"),),
    )


def rmb(row: Row) -> BenchmarkItem:
    """Read RMB (Zhou-Zoey/RMB-Reward-Model-Benchmark): conversation_input, category_path, and what is compared.

    Pairs have pair_uid, chosen and reject; best-of-N rows have bon_uid, bon_best and loser_list; a response is an
    object with its text in answer. The category_path is `<set>/<goal>/<scenario>`.
    """
    _, goal, scenario = [*_text(row, "category_path").split("/", 2), "", ""][:3]
    if row.get("bon_best") is None:
        kind, name, chosen, rejected = "pairwise", "pair_uid", _value(row, "chosen"), [_value(row, "reject")]
    else:
        kind, name, chosen, rejected = "best-of-N", "bon_uid", row["bon_best"], _list(row, "loser_list")
    section = f"{goal} {kind}"
    _check_known("goal", section, RMB)
    return BenchmarkItem(
        str(_value(row, name)),
        section,
        scenario or ALL,
        _messages(row, "conversation_input"),
        (_text(chosen, "answer"),),
        tuple(_text(response, "answer") for response in rejected),
    )


def _check_known(name: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise UnusableRow(QuarantineReason.BAD_TYPE, f"{name} {value!r} is none of {', '.join(known)}")


def _value(row: Any, name: str) -> Any:
    if not isinstance(row, Mapping) or row.get(name) is None:
        raise UnusableRow(QuarantineReason.MISSING_COLUMN, f"no column {name}")
    return row[name]


def _text(row: Any, name: str) -> str:
    return read_text(_value(row, name), name)


def _list(row: Row, name: str) -> list[Any]:
    value = _value(row, name)
    if isinstance(value, str | Mapping) or not hasattr(value, "__iter__"):
        raise UnusableRow(QuarantineReason.BAD_TYPE, f"{name} is not a list")
    if not (values := list(value)):
        raise UnusableRow(QuarantineReason.TOO_FEW_RESPONSES, f"{name} is empty")
    return values


def _texts(row: Row, name: str) -> tuple[str, ...]:
    return tuple(read_text(text, name) for text in _list(row, name))


def _messages(row: Row, name: str) -> tuple[dict[str, str], ...]:
    value = _value(row, name)
    chat = [{"role": "user", "content": read_text(value, name)}] if isinstance(value, str) else _list(row, name)
    messages = tuple({key: _text(message, key) for key in ("role", "content")} for message in chat)
    if messages[-1]["role"] != "user":
        raise UnusableRow(QuarantineReason.BAD_TYPE, f"{name} does not end with a message of the user")
    if not messages[-1]["content"].strip():
        raise UnusableRow(QuarantineReason.EMPTY_PROMPT, "the prompt has no text")
    return messages
