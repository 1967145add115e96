"""The data report: groups per split, quarantined rows by reason, lengths in tokens, and t_0; counted batch by batch."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rao_kedro.data.digests import DigestSet
from rao_kedro.data.quarantine import ReasonCounts
from rao_kedro.models.chat import common_prefix

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Line = tuple[str, str, object]


class _SplitCounts:
    """What is counted of the groups of a split."""

    def __init__(self) -> None:
        self.groups, self.cut, self.several_turns = 0, 0, 0
        self.prompts = DigestSet()
        self.sizes: Counter[int] = Counter()
        self.ratings = Moments()

    def take(self, groups: pa.RecordBatch) -> None:
        self.groups += groups.num_rows
        for prompt in groups.column("prompt_digest").to_pylist():
            self.prompts.add(prompt)
        finished = pc.list_flatten(groups.column("finished"))
        self.cut += len(finished) - finished.true_count
        self.several_turns += groups.num_rows - groups.column("earlier_turns").null_count
        self.sizes.update(pc.list_value_length(groups.column("responses")).to_pylist())
        self.ratings.take(pc.list_flatten(groups.column("ratings")).to_numpy())

    def lines(self) -> list[tuple[str, object]]:
        n = self.ratings.n
        return [
            ("tokenised", self.groups),
            ("prompts", len(self.prompts)),
            ("responses", n),
            ("cut responses", f"{self.cut} ({self.cut / n:.1%})"),
            *([("with responses of several turns", self.several_turns)] if self.several_turns else []),
            *((f"with {k} responses", self.sizes[k]) for k in sorted(self.sizes)),
            ("rating mean", self.ratings.mean),
            ("rating standard deviation", self.ratings.std),
        ]


class DataReport:
    """Counts batches of tokenised groups for the report."""

    def __init__(self) -> None:
        """Start with no groups."""
        self._splits: dict[str, _SplitCounts] = {}
        self._prompts, self._responses = Lengths(), Lengths()
        self._shared: list[int] | None = None

    @property
    def counts(self) -> dict[str, int]:
        """The number of groups of each split."""
        return {split: of_split.groups for split, of_split in self._splits.items()}

    def take(self, groups: pa.RecordBatch) -> None:
        """Count a batch of `tokenized_tables.divided_batches`."""
        for split in pc.unique(groups.column("split")).to_pylist():
            of_split = groups.filter(pc.equal(groups.column("split"), split))
            self._splits.setdefault(split, _SplitCounts()).take(of_split)
        prompts = groups.column("prompt_ids")
        self._prompts.take(pc.list_value_length(prompts))
        self._responses.take(pc.list_value_length(pc.list_flatten(groups.column("response_ids"))))
        for prompt in prompts:  # a prompt is a view until it is compared
            length = len(prompt) if self._shared is None else len(self._shared)
            beginning = prompt.values[:length].to_pylist()
            if self._shared != beginning:
                self._shared = common_prefix([beginning, self._shared if self._shared is not None else beginning])

    def table(
        self,
        read: Mapping[tuple[str, str], int],
        reasons: ReasonCounts,
        n_evaluation_prompts: int,
        tokenizer: "PreTrainedTokenizerBase",
        t0_length: int,
    ) -> pd.DataFrame:
        """Return a long table of `section, metric, value`.

        Args:
            read: Groups as they were read, by split and by the field of their ratings.
            reasons: Of the rows that were quarantined in reading and in tokenising.
            n_evaluation_prompts: Number of evaluation prompts.
            tokenizer: Decodes t_0.
            t0_length: Tokens of the prefix t_0 in use.
        """
        splits: Counter[str] = Counter()
        for (split, _), n in read.items():
            splits[split] += n
        names = {} if "validation" in splits else {"test": "held-out"}  # not divided yet
        lines: list[Line] = [("read", f"{names.get(split, split)} groups", n) for split, n in splits.items()]
        lines += [("read", f"{names.get(split, split)} groups rated by {by}", n) for (split, by), n in read.items()]
        for split, of_split in self._splits.items():
            lines += [(f"{split} groups", name, value) for name, value in of_split.lines()]
        lines.append(("evaluation", "prompts", n_evaluation_prompts))
        lines += _quarantine_lines(reasons)
        lines += self._prompts.lines("prompt tokens") + self._responses.lines("response tokens")
        shared = self._shared or []
        lines += [
            ("t_0", "tokens in use", t0_length),
            ("t_0", "text in use", repr(tokenizer.decode(shared[:t0_length]))),
            ("t_0", "tokens that all prompts share", len(shared)),
            ("t_0", "text that all prompts share", repr(tokenizer.decode(shared))),
        ]
        return _table(lines)


class Moments:
    """Mean and standard deviation of numbers that come in parts (Chan, Golub and LeVeque 1979)."""

    def __init__(self) -> None:
        """Start with no numbers."""
        self.n, self.mean, self._squares = 0, 0.0, 0.0

    @property
    def std(self) -> float:
        """The standard deviation of all numbers."""
        return math.sqrt(self._squares / self.n) if self.n else math.nan

    def take(self, values: "np.ndarray[Any, Any]") -> None:
        """Add numbers."""
        if not len(values):
            return
        n, mean = self.n + len(values), float(values.mean())
        delta = mean - self.mean
        self._squares += float(((values - mean) ** 2).sum()) + delta**2 * self.n * len(values) / n
        self.mean += delta * len(values) / n
        self.n = n


class Lengths:
    """A histogram of lengths, which gives their quantiles exactly."""

    def __init__(self) -> None:
        """Start with no lengths."""
        self._counts: Counter[int] = Counter()

    def take(self, lengths: Iterable[Any]) -> None:
        """Add lengths, an Arrow array of integers."""
        self._counts.update(pa.array(lengths).to_pylist())

    def quantile(self, q: float) -> float:
        """Return a quantile, linear between two lengths, as NumPy's."""
        place = q * (self._counts.total() - 1)
        low = self._at(math.floor(place))
        return low + (self._at(math.ceil(place)) - low) * (place - math.floor(place))

    def _at(self, rank: int) -> float:
        seen = 0
        for length in sorted(self._counts):
            seen += self._counts[length]
            if seen > rank:
                return float(length)
        return math.nan

    def lines(self, section: str) -> list[Line]:
        """Return the lines of the report."""
        quantiles = {"minimum": 0.0, "median": 0.5, "95 %": 0.95, "maximum": 1.0}
        return [
            (section, "sum", sum(length * n for length, n in self._counts.items())),
            *((section, name, self.quantile(q)) for name, q in quantiles.items()),
        ]


def quarantine_report(reasons: ReasonCounts) -> pd.DataFrame:
    """Return the number of quarantined rows by reason: the whole report if no group is left."""
    return _table(_quarantine_lines(reasons))


def _table(lines: Sequence[Line]) -> pd.DataFrame:
    return pd.DataFrame([(a, b, _shown(c)) for a, b, c in lines], columns=["section", "metric", "value"])


def _quarantine_lines(reasons: ReasonCounts) -> list[Line]:
    return [
        *(("quarantined", reason, n) for reason, n in reasons.counts.most_common()),
        ("quarantined", "all", reasons.counts.total()),
    ]


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
