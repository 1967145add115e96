"""Prompt groups as the tokens of a model that scores them: cut to what it reads, in pieces that fit a batch."""

import math
from collections.abc import Callable, Iterator, Sequence

from rao_kedro.errors import DataError, ModelError
from rao_kedro.models.chat import ChatFormat, prompt_token_ids, response_token_ids
from rao_kedro.models.packing import TokenizedGroup
from rao_kedro.rewards.base import PromptGroup, Scores

Score = Callable[[list[TokenizedGroup], int], dict[str, list[float]]]


def score_tokens(
    chat: ChatFormat,
    groups: Sequence[PromptGroup],
    max_length: int,
    max_tokens_per_batch: int,
    score: Score,
) -> list[Scores]:
    """Return the scores of groups under a model that reads token ids.

    Args:
        chat: How that model writes a chat.
        groups: What is scored. Where its template refuses a prompt or a response, there is no score.
        max_length: Tokens of a prompt and a response that the model reads; a longer response is cut at its end, and
            with a longer prompt there is no score.
        max_tokens_per_batch: Tokens of a packed forward pass; only a single longer response exceeds it.
        score: Returns the scores of pieces of groups by their ids, given the tokens of a batch.

    Raises:
        DataError: A score is not finite.
    """
    results = []
    pieces: list[TokenizedGroup] = []
    for n, group in enumerate(groups):
        try:
            prompt_ids = prompt_token_ids(chat, group.messages)
        except ModelError as error:
            results.append(Scores.failed(len(group.responses), str(error)))
            continue
        room = max_length - len(prompt_ids)
        if room < 1:
            reason = f"the prompt has {len(prompt_ids)} tokens, and the model reads {max_length}"
            results.append(Scores.failed(len(group.responses), reason))
            continue
        whole, failures = _response_ids(chat, group)
        fitting = [ids[:room] for ids in whole]
        pieces += _pieces(str(n), prompt_ids, [ids for ids in fitting if ids], max_tokens_per_batch)
        truncated = [len(ids) > room for ids in whole]
        results.append(Scores([math.nan] * len(whole), truncated, failures))
    found = score(pieces, max([max_tokens_per_batch, *(piece.n_tokens for piece in pieces)])) if pieces else {}
    values: dict[int, list[float]] = {}
    for piece in pieces:
        values.setdefault(int(piece.group_id.split(":")[0]), []).extend(found[piece.group_id])
    return [
        _filled(group, scores, values.get(n, [])) for n, (group, scores) in enumerate(zip(groups, results, strict=True))
    ]


def _response_ids(chat: ChatFormat, group: PromptGroup) -> tuple[list[list[int]], list[str]]:
    """Return the ids of each response, none where the template fails, and why it did."""
    response_ids: list[list[int]] = []
    failures: list[str] = []
    for response, finished in zip(group.responses, group.finished or [True] * len(group.responses), strict=True):
        try:
            ids, failure = response_token_ids(chat, group.messages, response, finished), ""
        except ModelError as error:
            ids, failure = [], str(error)
        response_ids.append(ids)
        failures.append(failure)
    return response_ids, failures


def _pieces(name: str, prompt_ids: list[int], responses: list[list[int]], max_tokens: int) -> Iterator[TokenizedGroup]:
    """Yield the responses in groups of at most `max_tokens`, where one response alone is not longer."""
    start, size = 0, len(prompt_ids)
    for end, ids in enumerate(responses):
        if end > start and size + len(ids) > max_tokens:
            yield TokenizedGroup(f"{name}:{start}", prompt_ids, responses[start:end])
            start, size = end, len(prompt_ids)
        size += len(ids)
    if responses:
        yield TokenizedGroup(f"{name}:{start}", prompt_ids, responses[start:])


def _filled(group: PromptGroup, scores: Scores, values: Sequence[float]) -> Scores:
    """Put values where no response failed."""
    if broken := [value for value in values if not math.isfinite(value)]:
        raise DataError(
            f"a response of group {group.group_id} was scored {broken[0]}: the model's weights are broken, or the "
            "precision is too low for them"
        )
    rest = iter(values)
    rewards = [math.nan if failure else next(rest) for failure in scores.failures]
    return Scores(rewards, scores.truncated, scores.failures)
