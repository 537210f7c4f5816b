"""Between a session and the history: writes what is said, and brings a conversation back."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from gptkit.chat.conversation import Conversation, Made, Turn
from gptkit.chat.store import StoredTurn

if TYPE_CHECKING:
    from gptkit.chat.session import Session
    from gptkit.chat.store import Store, StoredConversation


class Recorder:
    """Listens to a session and keeps every turn; the `Listener` of a session.

    A conversation gets its place in the history with its first message.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.id: str | None = None
        self._conversation: Conversation | None = None
        self._said_at: dict[int, float] = {}

    def follow(self, id: str, conversation: Conversation) -> None:
        """Go on with a conversation that is in the history already."""
        self.id, self._conversation = id, conversation
        self._said_at = {}

    def said(self, session: Session, turn: Turn) -> None:
        """Write a turn, again if it has grown."""
        if session.conversation is not self._conversation or self.id is None:
            self.follow(self._begin(session), session.conversation)
        parent = turn.parent.number if turn.parent is not None else None
        stored = StoredTurn(
            turn.number,
            parent,
            turn.role,
            turn.text,
            turn.finish_reason,
            turn.seed,
            turn.edited,
            dataclasses.asdict(turn.made) if turn.made is not None else {},
            self._said_at.setdefault(turn.number, time.time()),
        )
        self.store.save_turn(str(self.id), stored)

    def moved(self, session: Session) -> None:
        """Note from where the talk goes on."""
        if session.conversation is self._conversation and self.id is not None:
            cursor = session.conversation.cursor
            self.store.set_cursor(self.id, cursor.number if cursor is not None else None)

    def _begin(self, session: Session) -> str:
        settings = session.settings
        return self.store.begin(
            model=session.model_name,
            template=session.chosen.name,
            system=settings.system,
            settings={"seed": settings.seed, "chain": [str(stage) for stage in settings.chain]},
        )


def restored(stored: StoredConversation) -> Conversation:
    """Return a conversation as it was left."""
    conversation = Conversation()
    by_number: dict[int, Turn] = {}
    for one in stored.turns:
        turn = Turn(
            one.number,
            "user" if one.role == "user" else "assistant",
            one.text,
            by_number.get(one.parent or 0),
            one.finish_reason,
            one.seed,
            _made(dict(one.details)),
            one.edited,
        )
        by_number[one.number] = turn
        conversation.turns.append(turn)
    conversation.cursor = by_number.get(stored.cursor or 0)
    return conversation


def _made(details: dict[str, Any]) -> Made | None:
    if not details:
        return None
    details["chain"], details["token_ids"] = tuple(details["chain"]), tuple(details["token_ids"])
    return Made(**details)
