"""Commands that move in the conversation, or have the model write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.chat.commands.arguments import count, turn
from gptkit.chat.conversation import drawn
from gptkit.chat.events import EditWanted, Left, LinesWanted, Note, SessionEvent, Tree
from gptkit.chat.plain import shortened
from gptkit.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gptkit.chat.session import Session


def undo(session: Session, rest: str) -> Iterator[SessionEvent]:
    """[N]: Go back before the last message, or the last N; nothing is lost, see /tree."""
    path = session.conversation.path()
    said = sum(one.role == "user" for one in path)
    if not said:
        raise _nothing(session)
    n = count(rest, "undo", most=said)
    session.go_to(session.conversation.before(n))
    yield Note(f"{n} message{'s' * (n > 1)} back{_where(session)}")


def retry(session: Session, rest: str) -> Iterator[SessionEvent]:
    """[N]: Answer the last message again, or N times; /branch chooses among the answers."""
    yield from session.retry(count(rest, "retry", most=100))


def continue_(session: Session, rest: str) -> Iterator[SessionEvent]:
    """Go on with the last answer, which was stopped or cut."""
    yield from session.go_on()


def edit(session: Session, rest: str) -> Iterator[SessionEvent]:
    """[TURN]: Write the last message anew in $EDITOR, or the turn of a number, an answer too."""
    if rest:
        yield EditWanted(turn(session, rest, "edit"))
        return
    own = [one for one in session.conversation.path() if one.role == "user"]
    if not own:
        raise _nothing(session)
    yield EditWanted(own[-1])


def multi(session: Session, rest: str) -> Iterator[SessionEvent]:
    """Write several lines; one that says /end alone sends them."""
    yield LinesWanted()


def branch(session: Session, rest: str) -> Iterator[SessionEvent]:
    """[N]: List the ways that the talk took at its last fork, or take the N-th."""
    talk = session.conversation
    ways = talk.ways()
    if not ways:
        raise RequestError("the talk has no branches here", hint="/retry writes another answer")
    if rest:
        session.go_to(talk.tip(ways[count(rest, "branch", most=len(ways)) - 1]))
        yield Note(f"branch {rest}{_where(session)}")
        return
    here = talk.path()
    yield Tree(
        tuple((f"{i}: turn ", one) for i, one in enumerate(ways, start=1)),
        next((one for one in ways if one in here), None),
    )


def tree(session: Session, rest: str) -> Iterator[SessionEvent]:
    """Draw all that was said, with the number of each turn, and where the talk is now."""
    if not session.conversation.turns:
        raise _nothing(session)
    yield Tree(tuple(drawn(session.conversation)), session.conversation.cursor)


def goto(session: Session, rest: str) -> Iterator[SessionEvent]:
    """TURN: Go on from a turn, by its number in /tree; 0 is the place before the first."""
    session.go_to(None if rest == "0" else turn(session, rest, "goto"))
    yield Note(f"at turn {rest}{_where(session)}")


def reset(session: Session, rest: str) -> Iterator[SessionEvent]:
    """Start a new conversation; the settings stay, and so does the old one, in the history."""
    session.reset()
    yield Note("a new conversation")


def exit_(session: Session, rest: str) -> Iterator[SessionEvent]:
    """Leave; so does Ctrl-D."""
    yield Left()


def _where(session: Session) -> str:
    """Say behind what the talk goes on."""
    cursor = session.conversation.cursor
    if cursor is None:
        return "; the talk begins anew"
    return f"; it goes on after: {shortened(cursor.text)}"


def _nothing(session: Session) -> RequestError:
    """Return the error where no message stands before the cursor."""
    if session.conversation.turns:
        return RequestError("the talk begins here", hint="/tree shows what was said, /goto goes on")
    return RequestError("nothing has been said yet")


COMMANDS = (undo, retry, continue_, edit, multi, branch, tree, goto, reset, exit_)
