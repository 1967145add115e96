"""Names of a method's runs: one per training seed, and one per round whose policy is measured."""

import re
from collections.abc import Iterable

_RUN = re.compile(r"(?P<method>.+)_seed_(?P<seed>\d+)")
_ROUND = re.compile(r"(?P<method>.+?)_round_(?P<round>\d+)(?P<seed>_seed_\d+)?")


def run_names(method: str, seeds: "tuple[int, ...] | list[int]") -> list[str]:
    """Return the names of a method's runs: `rao` for the first seed, then `rao_seed_1` for seed 1."""
    return [method, *(f"{method}_seed_{seed}" for seed in seeds[1:])]


def method_of(run: str) -> str:
    """Return the method of a run: `rao` of `rao_seed_1`, and `rao_round_2` of `rao_round_2_seed_1`."""
    found = _RUN.fullmatch(run)
    return found["method"] if found else run


def round_namespace(run: str, round_: int) -> str:
    """Return the namespace of one round of a run: `rao_seed_1.round_2`."""
    return f"{run}.round_{round_}"


def round_run(run: str, round_: int) -> str:
    """Return the name under which the policy of a round is measured: `rao_round_2_seed_1` of the run `rao_seed_1`."""
    method = method_of(run)
    return f"{method}_round_{round_}{run.removeprefix(method)}"


def split_round(name: str) -> tuple[str, int | None]:
    """Return the run or method and the round of a name of `round_run`: `rao_seed_1` and 2; None for another name."""
    found = _ROUND.fullmatch(name)
    return (f"{found['method']}{found['seed'] or ''}", int(found["round"])) if found else (name, None)


def owner_of(namespace: str) -> str:
    """Return the run that a namespace belongs to: `rao` of `rao`, `rao.round_2` and `rao_round_2`."""
    return split_round(re.sub(r"\.round_\d+$", "", namespace))[0]


def runs_by_method(runs: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of each method's runs, in their order."""
    found: dict[str, list[str]] = {}
    for run in runs:
        found.setdefault(method_of(run), []).append(run)
    return found
