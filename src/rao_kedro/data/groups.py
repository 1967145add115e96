"""Builds prompt groups from rows, checks them, and quarantines what cannot be used, with a reason.

Every input row becomes a group or a quarantined row; a row that loses some of its responses becomes both. Groups are
written as they are read: only digests of their prompts and responses stay in memory.
"""

import json
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rao_kedro.config.data_engineering import PreferenceFiles, PreferenceSource
from rao_kedro.data.arrow_schemas import PREFERENCE_GROUPS
from rao_kedro.data.columns import read_content
from rao_kedro.data.digests import DigestSet, digest
from rao_kedro.data.fields import Row
from rao_kedro.data.formats import FORMATS, Rows, sniff, unknown_format
from rao_kedro.data.gathering import Gathered, Gathering
from rao_kedro.data.messages import DIFFERENT, Message, check_prompt, is_visible, read_text
from rao_kedro.data.quarantine import KEPT, NoGroupsLeftError, QuarantineFile, QuarantineReason, UnusableRow
from rao_kedro.data.ratings import ORDER
from rao_kedro.data.raw_groups import RawGroup
from rao_kedro.data.readers import RawRow, read_rows
from rao_kedro.data.requirements import score_response
from rao_kedro.data.table_files import TableWriter, read_batches
from rao_kedro.identity import combined_hash

logger = logging.getLogger(__name__)


def read_preferences(files: PreferenceFiles, directory: Path) -> tuple[Path, Path]:
    """Read training and held-out rows, and write them as two tables.

    Args:
        files: Their sources. A training prompt that is also held out is quarantined.
        directory: Where the tables are written.

    Returns:
        Paths of tables of `PreferenceGroupTable` and `QuarantineTable`.

    Raises:
        DataError: A source cannot be read, or no group is left (`NoGroupsLeftError`).
    """
    with building_groups(directory) as builder:
        for split, source in (("test", files.test), ("validation", files.validation), ("train", files.train)):
            if source is not None:
                builder.read(split, source)
    return builder.tables()


@contextmanager
def building_groups(directory: Path) -> Iterator["GroupBuilder"]:
    """Yield a builder; at the end of the block its tables are in the directory, training groups first."""
    held_out = directory / "held_out_groups.parquet"
    with (
        QuarantineFile(directory / "unreadable_rows.parquet") as quarantine,
        TableWriter(directory / "preference_groups.parquet", PREFERENCE_GROUPS) as groups,
    ):
        with TableWriter(held_out, PREFERENCE_GROUPS) as held_out_groups:
            yield GroupBuilder(groups, held_out_groups, quarantine)
        for batch in read_batches(held_out):
            groups.write_batch(batch)
    held_out.unlink()


class GroupBuilder:
    """Writes prompt groups and quarantined rows. Held-out sources come first, so that their prompts are known.

    Attributes:
        counts: Groups by split and by the field of their ratings.
    """

    def __init__(self, groups: TableWriter, held_out: TableWriter, quarantine: QuarantineFile) -> None:
        """Start with no groups.

        Args:
            groups: Takes the training groups.
            held_out: Takes the held-out groups.
            quarantine: Takes the rows that cannot be used.
        """
        self.counts: Counter[tuple[str, str]] = Counter()
        self._groups, self._held_out_groups, self._quarantined = groups, held_out, quarantine
        self._ids, self._held_out = DigestSet(), DigestSet()

    def read(self, split: str, source: PreferenceSource) -> None:
        """Add the rows of a source."""
        gathering = Gathering(self._groups.path.parent)
        name: str | None = None
        for row in read_rows(source):
            with self._quarantined.instead_of(row):
                content = read_content(row, source.columns)
                name = _format_of(content, source, otherwise=name)
                known = FORMATS[name]
                raw = known.read(content, rating_key=source.rating_key)
                raw.requirements = _requirements(content.get("requirements"))
                if raw.earlier_turns and source.assistant_turns == "last":
                    detail = f"{DIFFERENT}: `assistant_turns: all` makes responses of all turns that differ"
                    raise UnusableRow(QuarantineReason.DIFFERENT_PROMPTS, detail)
                if known.rows is Rows.ONE:
                    self._add_gathered(split, gathering.interrupt())
                    self.add(split, row, raw)
                else:
                    self._add_gathered(split, gathering.take(row, raw, known.rows))
        self._add_gathered(split, gathering.rest())

    def add(self, split: str, row: RawRow, raw: RawGroup) -> None:
        """Add a prompt with its responses, or quarantine it."""
        with self._quarantined.instead_of(row):
            self._add(split, row, raw)

    def _add_gathered(self, split: str, complete: Iterator[Gathered]) -> None:
        for gathered in complete:
            row = gathered.row
            with self._quarantined.instead_of(row):
                self._add(split, row, gathered.merge())

    def _add(self, split: str, row: RawRow, raw: RawGroup) -> None:
        check_prompt(raw.messages)
        responses, dropped = _usable_responses(raw)
        prompt = combined_hash(*_spelled(raw.messages))
        if split == "train" and digest(prompt) in self._held_out:
            raise UnusableRow(QuarantineReason.HELD_OUT_PROMPT_IN_TRAIN, "the same prompt is held out")
        group_id = combined_hash(prompt, *(text for of in responses for text in (*_spelled(of.earlier_turns), of.text)))
        if not self._ids.add(digest(group_id)):
            raise UnusableRow(QuarantineReason.DUPLICATE_ROW, "an earlier row has the same prompt and responses")
        if split != "train":
            self._held_out.add(digest(prompt))
        for reason, details in dropped.items():
            said = f": {details[0]}" if details[0] else ""
            lost = f"{len(details)} of {len(raw.responses)} {KEPT}{said}"
            self._quarantined.add(row.source, reason, lost, row.content)
        by = raw.rated_by or "requirements of the prompt"
        writer = self._groups if split == "train" else self._held_out_groups
        writer.write(
            {
                "group_id": group_id,
                "split": split,
                "messages": raw.messages,
                "responses": [response.text for response in responses],
                "ratings": [response.rating for response in responses],
                "finished": [response.finished for response in responses],
                "source": row.source,
                "requirements": raw.requirements,
                "rated_by": by,
                "earlier_turns": [response.earlier_turns for response in responses] if raw.earlier_turns else None,
            }
        )
        self.counts[split, by] += 1

    def tables(self) -> tuple[Path, Path]:
        """Return the paths of the tables of `PreferenceGroupTable` (training groups first) and `QuarantineTable`.

        Raises:
            NoGroupsLeftError: A split has no group left; says why rows were dropped.
        """
        splits = {split for split, _ in self.counts}
        if empty := [split for split in ("train", "test") if split not in splits]:
            what = f"no prompt group is left for {' and '.join(empty)}"
            raise NoGroupsLeftError(what, self._quarantined.reasons, self._quarantined.path)
        self._say_what_ratings_are()
        return self._groups.path, self._quarantined.path

    def _say_what_ratings_are(self) -> None:
        """Log which fields the ratings come from; warn where groups differ, since their scales may differ too."""
        for split in dict.fromkeys(split for split, _ in self.counts):
            fields = [f"{by} ({n} groups)" for (s, by), n in self.counts.items() if s == split]
            level = logging.WARNING if len(fields) > 1 else logging.INFO
            logger.log(level, "ratings of split %s come from %s", split, "; ".join(fields))


def _format_of(row: Row, source: PreferenceSource, otherwise: str | None) -> str:
    """Return a row's format: the parameter's, else the one that its columns show, else that of the previous row."""
    if source.format != "auto":
        return source.format
    if (name := sniff(row) or otherwise) is None:
        raise unknown_format(row)
    return name


def _requirements(value: Any) -> str:
    """Return a row's checkable requirements as a JSON list, which is empty if the row has none."""
    try:
        requirements = json.loads(value) if isinstance(value, str) else list(value if value is not None else [])
        if requirements:
            score_response("", requirements)
    except (ValueError, TypeError, AttributeError) as error:
        raise UnusableRow(QuarantineReason.BAD_TYPE, f"requirements: {error}") from error
    return read_text(json.dumps(requirements, ensure_ascii=False), "requirements")


@dataclass(frozen=True)
class _Response:
    text: str
    rating: float
    finished: bool
    earlier_turns: list[Message]

    @property
    def written(self) -> tuple[object, ...]:
        """What makes two responses the same."""
        return (self.text, self.finished, *_spelled(self.earlier_turns))


def _spelled(messages: Sequence[Message]) -> list[str]:
    return [f"{message['role']}:{message['content']}" for message in messages]


def _usable_responses(raw: RawGroup) -> tuple[list[_Response], dict[QuarantineReason, list[str]]]:
    """Return the usable responses (readable, not empty, rated, and each once), and details of the others by reason."""
    responses: list[_Response] = []
    dropped: dict[QuarantineReason, list[str]] = defaultdict(list)
    rated: dict[tuple[object, ...], set[float]] = defaultdict(set)
    read: list[_Response] = []
    k = len(raw.responses)
    of_raw = (raw.responses, raw.ratings, raw.finished or [True] * k, raw.earlier_turns or [[] for _ in range(k)])
    for text, rating, ended, earlier in zip(*of_raw, strict=True):
        if isinstance(text, UnusableRow):
            dropped[text.reason].append(text.detail)
        elif not all(map(is_visible, (text, *(message["content"] for message in earlier)))):
            dropped[QuarantineReason.EMPTY_RESPONSE].append("")
        elif rating is None:
            dropped[QuarantineReason.UNRATED_RESPONSE].append("")
        elif not math.isfinite(rating):
            dropped[QuarantineReason.NON_FINITE_RATING].append("")
        else:
            read.append(_Response(text, rating, ended, earlier))
            rated[read[-1].written].add(rating)
    kept: set[tuple[object, ...]] = set()
    for response in read:
        if len(values := rated[response.written]) > 1 and raw.rated_by != ORDER:
            said = f"one response is rated {' and '.join(map(str, sorted(values)))}"
            dropped[QuarantineReason.CONTRADICTORY_RATINGS].append(said)
        elif len(values) > 1:
            dropped[QuarantineReason.IDENTICAL_RESPONSES].append("it is both chosen and rejected")
        elif response.written in kept:
            dropped[QuarantineReason.IDENTICAL_RESPONSES].append("")
        else:
            responses.append(response)
            kept.add(response.written)
    if len(responses) < 2:
        reason = max(dropped, key=lambda reason: len(dropped[reason]), default=QuarantineReason.TOO_FEW_RESPONSES)
        said = f": {dropped[reason][0]}" if any(dropped[reason]) else ""
        detail = f"{len(responses)} of {k} responses are usable, 2 are needed{said}"
        raise UnusableRow(reason, detail)
    if len({response.rating for response in responses}) == 1:
        raise UnusableRow(
            QuarantineReason.EQUAL_RATINGS, f"all {len(responses)} responses are rated {responses[0].rating}"
        )
    return responses, dropped
