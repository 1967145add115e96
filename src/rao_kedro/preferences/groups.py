"""Builds prompt groups from rows and checks them; what cannot be used is quarantined with a reason.

Every input row ends as a group, as a quarantined row, or as both when only some of its responses were dropped.
"""

import json
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pandas as pd

from rao_kedro.errors import DataError
from rao_kedro.models.identity import combined_hash
from rao_kedro.preferences.formats import FORMATS, RawGroup, sniff
from rao_kedro.preferences.quarantine import QuarantineReason, UnusableRow, quarantined_row, quarantined_table
from rao_kedro.preferences.readers import RawRow, read_rows
from rao_kedro.rewards.checks import score_response
from rao_kedro.schemas.parameters import PreferenceFiles

GROUP_COLUMNS = ["group_id", "split", "messages", "responses", "ratings", "finished", "source", "requirements"]


def read_preferences(files: PreferenceFiles) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read training and held-out rows.

    Args:
        files: Where both come from. A training prompt that is also held out is quarantined.

    Returns:
        Tables of `PreferenceGroups` and `QuarantinedRows`.

    Raises:
        DataError: A source cannot be read or has no known format, or no group is left.
    """
    builder = GroupBuilder()
    sources = (("test", files.test), ("validation", files.validation), ("train", files.train))
    for split, source in sources:
        if source is None:
            continue
        name: str | None = None if source.format == "auto" else source.format
        for row in read_rows(source):
            if name is None and isinstance(row.content, dict):
                name = sniff(row.content, source.hub_id or str(source.path))
            builder.read(split, row, FORMATS[name or "trl"], source.rating_key)
    return builder.tables()


class GroupBuilder:
    """Collects prompt groups, held-out ones first, and what had to be dropped."""

    def __init__(self) -> None:
        """Start without any."""
        self.groups: list[dict[str, Any]] = []
        self.dropped: list[dict[str, str]] = []
        self._ids: set[str] = set()
        self._held_out: set[str] = set()

    def read(self, split: str, row: RawRow, reader: Callable[..., RawGroup], rating_key: str | None = None) -> None:
        """Add a row, read by the function of its format."""
        try:
            if isinstance(row.content, str):
                raise UnusableRow(QuarantineReason.INVALID_JSON, "the line is not a JSON object")
            raw = reader(row.content, rating_key=rating_key)
            raw.requirements = _requirements(row.content.get("requirements"))
        except UnusableRow as problem:
            self._drop(row, problem.reason, problem.detail)
        else:
            self.add(split, row, raw)

    def add(self, split: str, row: RawRow, raw: RawGroup) -> None:
        """Add a prompt with its responses, or quarantine it. Held-out rows come first."""
        try:
            self._add(split, row, raw)
        except UnusableRow as problem:
            self._drop(row, problem.reason, problem.detail)

    def _add(self, split: str, row: RawRow, raw: RawGroup) -> None:
        if not raw.messages or not raw.messages[-1]["content"].strip():
            raise UnusableRow(QuarantineReason.EMPTY_PROMPT, "the prompt has no text")
        if raw.messages[-1]["role"] != "user":
            raise UnusableRow(QuarantineReason.BAD_TYPE, "the prompt does not end with a message of the user")
        responses, ratings, finished, dropped = _usable_responses(raw)
        prompt = combined_hash(*(f"{message['role']}:{message['content']}" for message in raw.messages))
        if split == "train" and prompt in self._held_out:
            raise UnusableRow(QuarantineReason.HELD_OUT_PROMPT_IN_TRAIN, "the same prompt is held out")
        group_id = combined_hash(prompt, *responses)
        if group_id in self._ids:
            raise UnusableRow(QuarantineReason.DUPLICATE_ROW, "an earlier row has the same prompt and responses")
        self._ids.add(group_id)
        if split != "train":
            self._held_out.add(prompt)
        for reason, count in dropped.items():
            self._drop(row, reason, f"{count} of {len(raw.responses)} responses dropped, the group is kept")
        values = [group_id, split, raw.messages, responses, ratings, finished, row.source, raw.requirements]
        self.groups.append(dict(zip(GROUP_COLUMNS, values, strict=True)))

    def _drop(self, row: RawRow, reason: QuarantineReason, detail: str) -> None:
        self.dropped.append(quarantined_row(row.source, reason, detail, row.content))

    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the tables of `PreferenceGroups` (training groups first) and `QuarantinedRows`.

        Raises:
            DataError: A split has no group left; says why rows were dropped.
        """
        splits = Counter(group["split"] for group in self.groups)
        if empty := [split for split in ("train", "test") if not splits[split]]:
            reasons = dict(Counter(record["reason"] for record in self.dropped))
            raise DataError(f"no prompt group is left for {' and '.join(empty)}; dropped rows by reason: {reasons}")
        groups = sorted(self.groups, key=lambda group: group["split"] != "train")
        return pd.DataFrame(groups, columns=GROUP_COLUMNS), quarantined_table(self.dropped)


def _requirements(value: Any) -> str:
    """Return a row's checkable requirements as JSON: a list or its JSON in the row, none if the row has none."""
    try:
        requirements = json.loads(value) if isinstance(value, str) else list(value if value is not None else [])
        if requirements:
            score_response("", requirements)
    except (ValueError, TypeError, AttributeError) as error:
        raise UnusableRow(QuarantineReason.BAD_TYPE, f"requirements: {error}") from error
    return json.dumps(requirements, ensure_ascii=False)


def _usable_responses(raw: RawGroup) -> tuple[list[str], list[float], list[bool], Counter[QuarantineReason]]:
    """Return responses that are neither empty, nor unrated, nor there twice, and how many were dropped for what.

    With their ratings, and whether they are finished.
    """
    responses: list[str] = []
    ratings: list[float] = []
    finished: list[bool] = []
    dropped: Counter[QuarantineReason] = Counter()
    all_finished = [True] * len(raw.responses)
    for text, rating, ended in zip(raw.responses, raw.ratings, raw.finished or all_finished, strict=True):
        if not text.strip():
            dropped[QuarantineReason.EMPTY_RESPONSE] += 1
        elif rating is None:
            dropped[QuarantineReason.UNRATED_RESPONSE] += 1
        elif not math.isfinite(rating):
            dropped[QuarantineReason.NON_FINITE_RATING] += 1
        elif text in responses:
            dropped[QuarantineReason.IDENTICAL_RESPONSES] += 1
        else:
            responses.append(text)
            ratings.append(rating)
            finished.append(ended)
    if len(responses) < 2:
        reason = dropped.most_common(1)[0][0] if dropped else QuarantineReason.TOO_FEW_RESPONSES
        raise UnusableRow(reason, f"{len(responses)} of {len(raw.responses)} responses are usable, 2 are needed")
    if len(set(ratings)) == 1:
        raise UnusableRow(QuarantineReason.EQUAL_RATINGS, f"all {len(ratings)} responses are rated {ratings[0]}")
    return responses, ratings, finished, dropped
