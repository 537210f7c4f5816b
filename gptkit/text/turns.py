"""Chat templates as data: what each turn of a conversation is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from gptkit.config import Items, Settings
from gptkit.errors import ConfigError
from gptkit.plugin_api import ChatTemplate, Segment
from gptkit.text import placeholder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

Segments = tuple[Segment, ...]


class ControlPiece(Settings):
    """A piece that is one control token, by its name in the tokenizer."""

    control: str = Field(min_length=1)


Pieces = str | Items[str | ControlPiece]


class ChatTemplateSettings(Settings):
    """A chat template: what each turn is made of, with `$text` where its text stands."""

    system: Pieces | None = Field(None, description="the instruction, where there is one")
    user: Pieces
    assistant: Pieces
    stop: Items[str | ControlPiece] = Field((), description="what else ends an answer")

    @field_validator("system", "user", "assistant")
    @classmethod
    def _has_one_text(cls, pieces: Pieces | None) -> Pieces | None:
        found = [name for text in _texts(pieces) for name in placeholder.names(text)]
        if other := [name for name in found if name != "text"]:
            raise ValueError(f"${other[0]} is unknown here, a turn has $text alone")
        if pieces is not None and len(found) != 1:
            raise ValueError(f"needs $text once, has it {len(found)} times")
        return pieces

    @field_validator("stop")
    @classmethod
    def _is_not_empty(cls, pieces: Sequence[str | ControlPiece]) -> Sequence[str | ControlPiece]:
        if "" in pieces:
            raise ValueError("a stop string must not be empty")
        return pieces


class TurnTemplate(ChatTemplate):
    """A chat template made of its settings; stops at what follows an answer."""

    def __init__(self, settings: ChatTemplateSettings, label: str) -> None:
        self._label = label
        self._system = _turn(settings.system) if settings.system is not None else None
        self._turns = {"user": _turn(settings.user), "assistant": _turn(settings.assistant)}
        self._stop = tuple(
            Segment(piece.control, control=True)
            if isinstance(piece, ControlPiece)
            else Segment(piece)
            for piece in settings.stop
        )

    def head(self, system: str | None) -> Segments:
        """Return the instruction in its form; nothing without one."""
        if system is None:
            return ()
        if self._system is None:
            raise ConfigError(
                f"{self._label} has no place for a system instruction",
                hint="leave it out, or add 'system' to the template",
            )
        before, after = self._system
        return (*before, Segment(system), *after)

    def turn(self, role: Literal["user", "assistant"], text: str) -> Segments:
        """Return one finished turn."""
        before, after = self._turns[role]
        return (*before, Segment(text), *after)

    def reply(self) -> Segments:
        """Return what stands before the text of an answer, but for a blank at its end."""
        before, _ = self._turns["assistant"]
        if not before or before[-1].control:
            return before
        # Without the blank: a tokenizer joins it with the word that follows.
        return (*before[:-1], Segment(before[-1].text.rstrip(" \t")))

    @property
    def stops(self) -> Segments:
        """Return the control token that follows an answer, else the text; then the other stops."""
        _, after = self._turns["assistant"]
        ends = [piece for piece in after if piece.control] or after
        return tuple(dict.fromkeys((*ends[:1], *self._stop)))


def _turn(pieces: Pieces) -> tuple[Segments, Segments]:
    """Return what stands before the text of a turn, and what after it."""
    before: list[Segment] = []
    after: list[Segment] = []
    side = before

    def add(text: str) -> None:
        if text:
            side.append(Segment(placeholder.fill(text, {})))

    for piece in (pieces,) if isinstance(pieces, str) else pieces:
        if isinstance(piece, ControlPiece):
            side.append(Segment(piece.control, control=True))
        elif "text" in placeholder.names(piece):
            left, right = placeholder.cut(piece, "text")
            add(left)
            side = after
            add(right)
        else:
            add(piece)
    return tuple(before), tuple(after)


def _texts(pieces: Pieces | None) -> list[str]:
    listed: Any = (pieces,) if isinstance(pieces, str) else pieces or ()
    return [piece for piece in listed if isinstance(piece, str)]
