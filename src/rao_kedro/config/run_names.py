"""Names of a method's runs, of which there is one per training seed."""

import re
from collections.abc import Iterable

_RUN = re.compile(r"(?P<method>.+)_seed_(?P<seed>\d+)")


def run_names(method: str, seeds: "tuple[int, ...] | list[int]") -> list[str]:
    """Return the names of a method's runs: `rao` for the first seed, then `rao_seed_1` for seed 1."""
    return [method, *(f"{method}_seed_{seed}" for seed in seeds[1:])]


def method_of(run: str) -> str:
    """Return the method of a run: `rao` of `rao_seed_1`."""
    found = _RUN.fullmatch(run)
    return found["method"] if found else run


def runs_by_method(runs: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of each method's runs, in their order."""
    found: dict[str, list[str]] = {}
    for run in runs:
        found.setdefault(method_of(run), []).append(run)
    return found
