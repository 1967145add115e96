"""What a user reads of an error: the sentences of an error of this project, or what a bug is and where; ten lines.

Knows nothing of terminals and logs.
"""

import textwrap
import traceback
from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from rao_kedro.errors import RaoKedroError

PACKAGE = "rao_kedro"
LINES = 10
# Modules that every error passes through, which say nothing of its place.
ENTRANCES = (f"{PACKAGE}.cli", f"{PACKAGE}.framework.console", f"{PACKAGE}.framework.run_log")


def error_sentences(error: BaseException) -> list[str]:
    """Return what is wrong: the sentences of an error of ours, or else the exception and where it was raised."""
    ours = next((e for e in _causes(error) if isinstance(e, RaoKedroError)), None)
    if ours is not None:
        return str(ours).splitlines() or [type(ours).__name__]
    if isinstance(error, ValidationError):
        return [f"parameter {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
    frames = [(frame.f_globals.get("__name__", ""), line) for frame, line in traceback.walk_tb(error.__traceback__)]
    message = str(error).splitlines() or [""]
    if frames and frames[-1][0].split(".")[0] == "kedro":  # of a pipeline's name, for example
        return message
    of_ours = [frame for frame in frames if frame[0].split(".")[0] == PACKAGE and frame[0] not in ENTRANCES]
    places = dict.fromkeys([*of_ours[-1:], *frames[-1:]])
    return [f"{type(error).__name__}: {message[0]}", *message[1:], "at " + ", in ".join(f"{m}:{n}" for m, n in places)]


def fit_error(sentences: Sequence[str], advice: Sequence[str], width: int) -> list[str]:
    """Return the lines to show of sentences, so that they and the advice behind them fill at most ten lines.

    Sentences that fit are returned whole. Of a few that do not, each keeps its beginning; of many, the first and the
    last lines are kept.

    Args:
        sentences: What is wrong.
        advice: Sentences that are shown after them.
        width: Characters of a line.
    """
    broken = [textwrap.wrap(line, width, break_on_hyphens=False) or [""] for line in sentences]
    room = LINES - sum(len(textwrap.wrap(line, width)) for line in advice)
    if sum(map(len, broken)) <= room:
        return [*sentences]
    return _keep_beginnings(broken, room, width) if 1 < len(broken) <= room else _cut_middle(broken, room)


def _keep_beginnings(sentences: list[list[str]], room: int, width: int) -> list[str]:
    kept = [1] * len(sentences)
    while sum(kept) < room:
        kept[min((n, i) for i, n in enumerate(kept) if n < len(sentences[i]))[1]] += 1
    return [
        line if n == len(lines) or i < n - 1 else textwrap.shorten(f"{line} {lines[n]}", width, placeholder=" ...")
        for lines, n in zip(sentences, kept, strict=True)
        for i, line in enumerate(lines[:n])
    ]


def _cut_middle(sentences: list[list[str]], room: int) -> list[str]:
    lines = [line for sentence in sentences for line in sentence]
    first = room // 2
    last = room - first - 1
    left_out = len(lines) - first - last
    return [*lines[:first], f"... ({left_out} more lines are in the log)", *lines[len(lines) - last :]]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
