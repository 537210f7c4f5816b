"""What follows a command's name: numbers and turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.errors import ConfigError

if TYPE_CHECKING:
    from gptkit.chat.conversation import Turn
    from gptkit.chat.session import Session


def count(rest: str, command: str, *, most: int, default: int = 1) -> int:
    """Return a whole number from 1 to `most`, or the default where nothing was given."""
    if not rest:
        return default
    if not rest.isascii() or not rest.isdigit() or not 1 <= int(rest) <= most:
        raise ConfigError(
            f"/{command}: {rest!r} is not a whole number from 1 to {most:,}",
            hint=f"such as /{command} 2",
        )
    return int(rest)


def turn(session: Session, rest: str, command: str) -> Turn:
    """Return the turn whose number was given."""
    if not rest:
        raise ConfigError(
            f"/{command} needs the number of a turn", hint="/tree shows the numbers of all turns"
        )
    found = session.conversation.find(int(rest)) if rest.isascii() and rest.isdigit() else None
    if found is None:
        raise ConfigError(
            f"/{command}: there is no turn {rest!r}", hint="/tree shows the numbers of all turns"
        )
    return found
