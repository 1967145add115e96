"""Tokenises batches of prompt groups: checks the length limits, and chooses the pair of the pairwise methods.

What needs only the group itself is done here, in any process; `data.tokenized_tables` compares groups with each other.
Knows a tokenizer and batches of rows; no model, no files.
"""

import random
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from rao_kedro.data.arrow_schemas import TOKENIZED_GROUPS
from rao_kedro.data.digests import SIZE, digest
from rao_kedro.data.quarantine import KEPT, QuarantineReason, UnusableRow, quarantined_row
from rao_kedro.errors import DataError, ModelError
from rao_kedro.models.chat_batches import ChatTokenizer, GroupTokens
from rao_kedro.models.chat_format import ChatFormat


@dataclass(frozen=True)
class TokenLimits:
    """Limits on the tokens of a group.

    Attributes:
        max_prompt_tokens: Longer prompts are quarantined. They are never cut, since that would cut t_0.
        max_response_tokens: Longer responses are dropped; the group is kept if it still holds a preference.
        t0_length: Tokens of the prefix t_0 that all prompts must share.
    """

    max_prompt_tokens: int
    max_response_tokens: int
    t0_length: int = 1


Pairing = Literal["best_vs_random", "best_vs_worst"]
Record = Mapping[str, str]  # of the table of quarantined rows

# Groups with what compares them: the digests of the prompt's tokens, and of all tokens.
COMPARED_GROUPS = pa.schema(
    [*TOKENIZED_GROUPS]
    + [pa.field("source", pa.string())]
    + [pa.field(name, pa.binary(SIZE)) for name in ("prompt_digest", "digest")]
)


@dataclass
class TokenizedBatch:
    """The groups of a batch.

    Attributes:
        groups: Those that can be used so far, with the columns of `COMPARED_GROUPS`.
        outcomes: Of every group in its order: records of the responses that it lost, or why it cannot be used.
    """

    groups: pa.RecordBatch
    outcomes: "list[list[Record] | DroppedGroup]" = field(default_factory=list)


@dataclass(frozen=True)
class DroppedGroup:
    """A group that cannot be used.

    Attributes:
        split: Its split.
        prompt: The digest of its prompt; None if the prompt cannot be used.
        record: For the table of quarantined rows.
    """

    split: str
    prompt: bytes | None
    record: Record


@dataclass(frozen=True)
class _Response:
    text: str
    ids: list[int]
    rating: float
    finished: bool
    earlier_turns: list[Record]
    learned: list[bool]


class GroupTokenizer:
    """Tokenises batches of groups."""

    def __init__(self, chat: ChatFormat, limits: TokenLimits, pairing: Pairing, seed: int) -> None:
        """Fix what is the same for all groups.

        Args:
            chat: The model's chat format.
            limits: Limits on the tokens of a group.
            pairing: The rejected response is a random one of those rated below the chosen one (the paper), or the
                worst.
            seed: Seeds the random pairing.
        """
        self.chat, self.limits, self.pairing, self.seed = chat, limits, pairing, seed
        self._tokenizer: ChatTokenizer | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tokenizer": None}

    def __call__(self, batch: pa.RecordBatch) -> TokenizedBatch:
        """Tokenise the groups of a batch with the columns of `PreferenceGroupTable`."""
        self._tokenizer = self._tokenizer or ChatTokenizer(self.chat)
        rows = batch.to_pylist()
        kept: list[dict[str, Any]] = []
        found = TokenizedBatch(batch)
        for row, tokens in zip(rows, self._tokenizer.tokenize(rows), strict=True):
            prompt: bytes | None = None
            try:
                prompt_ids = self._prompt_ids(tokens)
                prompt = digest(_as_bytes(prompt_ids))
                responses, lost = self._responses(row, tokens)
            except UnusableRow as problem:
                record = quarantined_row(str(row["source"]), problem.reason, problem.detail, row)
                found.outcomes.append(DroppedGroup(row["split"], prompt, record))
                continue
            source, k = str(row["source"]), len(row["responses"])
            found.outcomes.append(
                [
                    quarantined_row(source, reason, f"{len(said)} of {k} {KEPT}: {said[0]}", row)
                    for reason, said in lost.items()
                ]
            )
            whole = digest(prompt, *(_as_bytes(response.ids) for response in responses))
            group = self._group(row, prompt_ids, responses)
            kept.append(group | {"source": row["source"], "prompt_digest": prompt, "digest": whole})
        found.groups = pa.RecordBatch.from_pylist(kept, schema=COMPARED_GROUPS)
        return found

    def _prompt_ids(self, tokens: GroupTokens) -> list[int]:
        ids, limits = tokens.prompt, self.limits
        if isinstance(ids, ModelError):
            raise UnusableRow(QuarantineReason.TEMPLATE_ERROR, str(ids)) from ids
        if not ids:
            raise UnusableRow(QuarantineReason.EMPTY_PROMPT, "the prompt has no tokens")
        if len(ids) > limits.max_prompt_tokens:
            detail = f"{len(ids)} tokens, max_prompt_tokens is {limits.max_prompt_tokens}"
            raise UnusableRow(QuarantineReason.PROMPT_TOO_LONG, detail)
        if len(ids) <= limits.t0_length:
            detail = f"{len(ids)} tokens, and t_0 has {limits.t0_length}: no token follows t_0"
            raise UnusableRow(QuarantineReason.PROMPT_NOT_T0, detail)
        return ids

    def _responses(
        self, row: Mapping[str, Any], tokens: GroupTokens
    ) -> tuple[list[_Response], dict[QuarantineReason, list[str]]]:
        """Return the usable responses of a row, and details of the dropped ones by reason.

        Raises:
            UnusableRow: No preference is left; the reason is the most frequent one.
        """
        usable: list[_Response] = []
        lost: dict[QuarantineReason, list[str]] = {}
        k = len(row["responses"])
        earlier, learned = row.get("earlier_turns") or [[]] * k, tokens.learned or [[]] * k
        of_row = (row["responses"], tokens.responses, row["ratings"], row["finished"], earlier, learned)
        for text, found, rating, finished, turns, mask in zip(*of_row, strict=True):
            try:
                ids = self._response_ids(found)
                if any(ids == other.ids for other in usable):
                    raise UnusableRow(QuarantineReason.IDENTICAL_RESPONSES, "an earlier response has the same tokens")
                usable.append(_Response(text, ids, float(rating), bool(finished), turns, mask))
            except UnusableRow as problem:
                lost.setdefault(problem.reason, []).append(problem.detail)
        if len({response.rating for response in usable}) < 2:
            reason = max(lost, key=lambda reason: len(lost[reason]), default=QuarantineReason.EQUAL_RATINGS)
            details = "; ".join(detail for of_reason in lost.values() for detail in of_reason)
            raise UnusableRow(reason, f"no preference is left of {k} responses: {details}")
        return usable, lost

    def _response_ids(self, ids: list[int] | ModelError) -> list[int]:
        if isinstance(ids, ModelError):
            raise UnusableRow(QuarantineReason.TEMPLATE_ERROR, str(ids)) from ids
        if set(ids) <= set(self.chat.end_of_turn_ids):
            raise UnusableRow(QuarantineReason.EMPTY_RESPONSE, "a response has no tokens except its end-of-turn token")
        if len(ids) > self.limits.max_response_tokens:
            detail = f"{len(ids)} tokens, max_response_tokens is {self.limits.max_response_tokens}"
            raise UnusableRow(QuarantineReason.RESPONSE_TOO_LONG, detail)
        return ids

    def _group(self, row: Mapping[str, Any], prompt_ids: list[int], responses: Sequence[_Response]) -> dict[str, Any]:
        """Return a row of `TokenizedGroupTable`."""
        ratings = [response.rating for response in responses]
        several = any(response.earlier_turns for response in responses)
        chosen, rejected = choose_pair(ratings, self.pairing, random.Random(f"{self.seed}-{row['group_id']}"))
        return {
            "group_id": row["group_id"],
            "split": row["split"],
            "messages": row["messages"],
            "responses": [response.text for response in responses],
            "requirements": row["requirements"],
            "prompt_ids": prompt_ids,
            "response_ids": [response.ids for response in responses],
            "ratings": ratings,
            "finished": [response.finished for response in responses],
            "chosen": chosen,
            "rejected": rejected,
            "earlier_turns": [response.earlier_turns for response in responses] if several else None,
            "learned": [response.learned for response in responses] if several else None,
        }


def _as_bytes(ids: Sequence[int]) -> bytes:
    return array("i", ids).tobytes()


def choose_pair(ratings: Sequence[float], pairing: Pairing, rng: random.Random) -> tuple[int, int]:
    """Return the positions of the chosen (best rated, the first of equals) and the rejected response.

    Raises:
        DataError: All ratings are equal, so there is no preference.
    """
    chosen = max(range(len(ratings)), key=lambda i: ratings[i])
    worse = [i for i, rating in enumerate(ratings) if rating < ratings[chosen]]
    if not worse:
        raise DataError(f"all ratings are {ratings[chosen]}: there is no rejected response")
    return chosen, rng.choice(worse) if pairing == "best_vs_random" else min(worse, key=lambda i: ratings[i])


def response_order(chosen: int, rejected: int, n_responses: int) -> list[int]:
    """Return the positions of a group's responses in the order of training: chosen, rejected, then the others."""
    return [chosen, rejected, *(i for i in range(n_responses) if i not in (chosen, rejected))]
