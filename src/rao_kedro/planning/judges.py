"""Checks of rewards, judges and served models: parameters, addresses, keys, prompt templates."""

import ipaddress
import os
import socket
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rao_kedro.config.generation import ServedEngineParameters
from rao_kedro.config.rewards import RewardParameters
from rao_kedro.errors import ParameterError, RaoKedroError
from rao_kedro.generation.engine_options import refuse_impossible
from rao_kedro.planning.models import checkpoint_problems, template_problems
from rao_kedro.rewards.registry import build_reward

CONNECT_TIMEOUT = 2.0  # seconds
_PRIVATE_DOMAINS = (".local", ".internal", ".lan", ".localdomain", ".home", ".corp", ".cluster")
_MODELS = {"bradley_terry": ("model_dir",), "implicit": ("policy_dir", "reference_dir")}


def reward_problems(parameter: str, reward: RewardParameters) -> Iterator[str]:
    """Yield why a reward could not score."""
    if reward == RewardParameters():  # the default needs no check, and no torch
        return
    try:
        build_reward(reward.with_defaults(Path(), Path(), "no", Path()))
    except RaoKedroError as error:
        yield f"parameter {parameter}: {error}"
        return
    yield from _part_problems(parameter, reward.name, reward.parameters)


def needed_ratings(parameter: str, reward: RewardParameters) -> Iterator[str]:
    """Yield a problem where a reward reads ratings of the data, which responses of a model do not have."""
    parts = reward.parameters.get("parts", []) if reward.name == "combined" else []
    if "ratings" in (reward.name, *(part.get("name") for part in parts)):
        yield (
            f"parameter {parameter}: responses of the reference have no ratings, so that qrpo and log_z0: estimated "
            "need a reward that scores new responses: name another one, or leave these methods out"
        )


def _part_problems(parameter: str, name: str, given: Mapping[str, Any]) -> Iterator[str]:
    inside = f"{parameter}.parameters"
    if name == "combined":
        for i, part in enumerate(given.get("parts", [])):
            yield from _part_problems(f"{inside}.parts.{i}", part["name"], part.get("parameters", {}))
    for key in _MODELS.get(name, ()):
        if given.get(key):
            yield from checkpoint_problems(f"{inside}.{key}", str(given[key]))
    if name == "generative":
        yield from asked_problems(inside, given)
        if given.get("template"):
            yield from template_problems(f"{inside}.template", Path(given["template"]))


def asked_problems(parameter: str, asked: Mapping[str, Any]) -> Iterator[str]:
    """Yield why a model could not be asked for responses.

    Args:
        parameter: Name of the block.
        asked: Values of the block: `model`, `base_url` of its server or else the `engine` that serves it here, and
            `api_key_variable` where it is set.
    """
    url = asked.get("base_url")
    if not url:
        if find_spec("vllm") is None:
            yield (
                f"parameter {parameter}: vLLM would serve {asked['model']} here, and is not installed: pip install "
                "'rao_kedro[cpu]' (or [gpu]), or set base_url to a server"
            )
        yield from checkpoint_problems(f"{parameter}.model", str(asked["model"]))
        try:
            refuse_impossible(ServedEngineParameters.model_validate(asked.get("engine") or {}), "vllm")
        except ParameterError as error:
            yield f"parameter {parameter}: {error}"
        return
    if problem := _wrong_address(url):
        yield f"parameter {parameter}.base_url: {problem}"
        return
    variable = asked.get("api_key_variable") or "OPENAI_API_KEY"
    if urlsplit(url).scheme == "https" and not is_inside(str(urlsplit(url).hostname)) and not _key(variable):
        yield (
            f"parameter {parameter}.base_url: {urlsplit(url).hostname} wants a key, and the environment variable "
            f"{variable} is not set: set it, or api_keys.{variable} in Kedro's credentials (to any text where the "
            "server takes all)"
        )


def unreachable(parameter: str, url: str) -> Iterator[str]:
    """Yield a remark where a server refuses a connection now; it may be started before it is needed."""
    address = urlsplit(url)
    port = address.port or {"http": 80, "https": 443}.get(address.scheme, 443)
    try:
        socket.create_connection((str(address.hostname), port), timeout=CONNECT_TIMEOUT).close()
    except OSError as error:
        yield (
            f"parameter {parameter}.base_url: {address.hostname}:{port} takes no connection now ({error}): start "
            "the server before the run needs it"
        )


def is_inside(host: str) -> bool:
    """Return whether a host is this machine or in a private network, where servers often need no key."""
    if host == "localhost" or ("." not in host and ":" not in host) or host.endswith(_PRIVATE_DOMAINS):
        return True
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return False


def _key(variable: str) -> str:
    return os.environ.get(variable, "").strip()


def _wrong_address(url: str) -> str | None:
    """Return what is wrong with an address; an address with credentials is never quoted."""
    try:
        address = urlsplit(url)
        port = address.port
    except ValueError as error:
        return f"it is no address ({error}): write it as http://host:port/v1"
    if address.username is not None or address.password is not None:
        return "it holds credentials, which would end in logs: put the key into the environment variable instead"
    if address.scheme not in ("http", "https") or not address.hostname or port == 0:
        return f"{url!r} is no address of a server: write it as http://host:port/v1"
    return None
