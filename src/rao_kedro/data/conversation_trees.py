"""Gathers messages that are a row each into trees, as OpenAssistant publishes them: one conversation per tree.

A tree is complete after the last row of the source, since a reply may stand anywhere.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from rao_kedro.data.conversation_formats import RawConversation, best_reply
from rao_kedro.data.fields import Row, require
from rao_kedro.data.messages import read_dialogue
from rao_kedro.data.quarantine import QuarantineReason, UnusableRow
from rao_kedro.data.readers import RawRow


class MessageTrees:
    """The rows of one source that are messages of trees."""

    def __init__(self) -> None:
        """Start with no rows."""
        self._rows: dict[str, tuple[RawRow, dict[str, Any]]] = {}
        self._replies: dict[str, list[str]] = defaultdict(list)
        self._roots: list[str] = []

    def take(self, row: RawRow, content: Row) -> None:
        """Add a message.

        Raises:
            UnusableRow: It has no id, or the id of another message.
        """
        name, parent = str(require(content, "message_id")), content.get("parent_id")
        if name in self._rows:
            raise UnusableRow(QuarantineReason.DUPLICATE_ROW, f"an earlier row has the message_id {name}")
        kept = ("role", "text", "rank", "deleted", "review_result")
        message = {key: content[key] for key in kept if content.get(key) is not None}
        self._rows[name] = row, message | {"message_id": name}
        if parent in (None, ""):
            self._roots.append(name)
        else:
            self._replies[str(parent)].append(name)

    def conversations(self) -> Iterator[tuple[RawRow, RawConversation | UnusableRow]]:
        """Yield each tree with the row of its first message, and each message that belongs to no tree."""
        reached: set[str] = set()
        for root in self._roots:
            row, message = self._rows[root]
            reached |= (tree := self._below(root))
            path: list[Row] = []
            node: Row | None = message
            while node is not None:
                path.append(node)
                node = best_reply([self._rows[name][1] for name in self._replies[node["message_id"]]])
            try:
                yield row, RawConversation(read_dialogue(path, "the tree"), other_replies=len(tree) - len(path))
            except UnusableRow as problem:
                yield row, problem
        for name, (row, _) in self._rows.items():
            if name not in reached:
                yield row, UnusableRow(QuarantineReason.ORPHAN_MESSAGE, "no row has the message_id of its parent_id")

    def _below(self, root: str) -> set[str]:
        found, waiting = set(), [root]
        while waiting:
            found.add(name := waiting.pop())
            waiting += self._replies[name]
        return found
