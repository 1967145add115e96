"""Turns prompt groups into the tokens of a scoring model, cut to its length."""

import math
from collections.abc import Callable, Sequence

from rao_kedro.data.prompt_group import PromptGroup
from rao_kedro.errors import DataError, ModelError
from rao_kedro.models.chat import common_prefix, dialogue_token_ids, prompt_token_ids, response_token_ids
from rao_kedro.models.chat_format import ChatFormat
from rao_kedro.models.conversation_tokens import ConversationTokenizer
from rao_kedro.models.packing import TokenizedGroup, longest_row
from rao_kedro.models.reward_head import ReadAt
from rao_kedro.rewards.base import Scores

Score = Callable[[list[TokenizedGroup], int], dict[str, list[float]]]
MIN_SHARED = 2  # tokens before a response, of which the first is t_0


def score_tokens(
    chat: ChatFormat,
    groups: Sequence[PromptGroup],
    max_length: int,
    max_tokens_per_batch: int,
    score: Score,
    read_at: ReadAt = "end_of_turn",
    padding: int | None = None,
) -> list[Scores]:
    """Return the scores of groups under a model that reads token ids.

    Args:
        chat: The model's chat format.
        groups: The groups to score. A prompt or a response that the chat template refuses gets no score.
        max_length: Maximum tokens of a prompt and its response. A longer response is cut at its end; responses to a
            longer prompt get no score.
        max_tokens_per_batch: Tokens of a packed forward pass; only a single longer response exceeds it.
        score: Takes groups and the tokens of a batch; returns the scores of each group by its id.
        read_at: Where a response ends: at the template's last token, or at the end-of-turn token.
        padding: Padding token, removed from the template's end: plain transformers reads the last token before it.

    Raises:
        DataError: A score is not finite.
    """
    results = []
    conversations = ConversationTokenizer(chat)
    tokenized: list[TokenizedGroup] = []
    for n, group in enumerate(groups):
        try:
            prompt_ids = prompt_token_ids(chat, group.messages)
        except ModelError as error:
            results.append(Scores.failed(len(group.responses), str(error)))
            continue
        if len(prompt_ids) >= max_length:
            reason = f"the prompt has {len(prompt_ids)} tokens, but the model reads only {max_length}"
            results.append(Scores.failed(len(group.responses), reason))
            continue
        rows, masks, failures = _rows(chat, conversations, group, prompt_ids, read_at)
        truncated = [len(row) > max_length for row in rows]
        rows = [row[:max_length] for row in rows]
        if read_at == "template_end":
            rows = [_without_trailing(padding, row) for row in rows]
        n_shared = len(prompt_ids) if read_at == "end_of_turn" else _n_shared([row for row in rows if row])
        for i, row in enumerate(rows):
            if not failures[i] and (n_shared < MIN_SHARED or len(row) <= n_shared):
                failures[i] = "the response has no token after the prompt"
        read = [i for i, failure in enumerate(failures) if not failure]
        if read:
            responses = [rows[i][n_shared:] for i in read]
            learned = None if masks is None else [masks[i][: len(ids)] for i, ids in zip(read, responses, strict=True)]
            tokenized.append(TokenizedGroup(str(n), rows[read[0]][:n_shared], responses, learned=learned))
        results.append(Scores([math.nan] * len(rows), truncated, failures))
    values = score(tokenized, max([max_tokens_per_batch, *map(longest_row, tokenized)])) if tokenized else {}
    return [
        _fill(group, scores, values.get(str(n), []))
        for n, (group, scores) in enumerate(zip(groups, results, strict=True))
    ]


def _rows(
    chat: ChatFormat,
    conversations: ConversationTokenizer,
    group: PromptGroup,
    prompt_ids: list[int],
    read_at: ReadAt,
) -> tuple[list[list[int]], list[list[bool]] | None, list[str]]:
    """Return the ids of each prompt with its response, empty if the template fails, and why it failed.

    If they are read at the end of turn, and some have several turns, also which of a response's ids are learned.
    """
    rows: list[list[int]] = []
    masks: list[list[bool]] = []
    failures: list[str] = []
    learned: list[bool]
    for i, (response, finished) in enumerate(
        zip(group.responses, group.finished or [True] * len(group.responses), strict=True)
    ):
        row, learned, failure = [], [], ""
        try:
            if read_at == "template_end":
                row = dialogue_token_ids(chat, group.before(i), response, finished)
            elif group.earlier_turns:
                turns = [*group.earlier_turns[i], {"role": "assistant", "content": response}]
                ids, learned = conversations.continue_prompt(group.messages, turns, finished)
                row = [*prompt_ids, *ids]
            else:
                row = [*prompt_ids, *response_token_ids(chat, group.messages, response, finished)]
        except ModelError as error:
            row, failure = [], str(error)
        rows.append(row)
        masks.append(learned)
        failures.append(failure)
    return rows, masks if group.earlier_turns and read_at == "end_of_turn" else None, failures


def _without_trailing(padding: int | None, row: list[int]) -> list[int]:
    end = len(row)
    while end and row[end - 1] == padding:
        end -= 1
    return row[:end]


def _n_shared(rows: Sequence[Sequence[int]]) -> int:
    """Return how many first tokens all rows share, such that each row has at least one more."""
    return min(len(common_prefix(rows)), min(map(len, rows)) - 1) if rows else 0


def _fill(group: PromptGroup, scores: Scores, values: Sequence[float]) -> Scores:
    """Return the scores with `values` for the responses that did not fail."""
    if broken := [value for value in values if not math.isfinite(value)]:
        raise DataError(
            f"a response of group {group.group_id} has the score {broken[0]}: the model's weights are damaged, or the "
            "precision is too low for them"
        )
    rest = iter(values)
    rewards = [math.nan if failure else next(rest) for failure in scores.failures]
    return Scores(rewards, scores.truncated, scores.failures)
