"""Templates, rows and turns -> token ids that fit in the room there is.

What was computed for one prompt serves the next where they begin alike. So what does not fit is
left out where it costs least: the last examples first, for the first ones are every row's; of a
conversation the oldest turns, and then many at once, for the rest must be computed again.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from gptkit.errors import ContextOverflow, PluginError, RequestError, plugin_code
from gptkit.plugin_api import ChatTemplate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from gptkit.plugin_api import Segment, Template, Tokenizer

OVERFLOW = ("error", "truncate_left", "truncate_right")
"""What can be done with a prompt that is too long."""
CHAT_OVERFLOW = ("drop_oldest", "keep_system_and_examples", "slide", "error")
"""What can be done with a conversation that is too long: the oldest exchanges go; the same, but
never the first, which shows how to answer; the oldest tokens go; nothing."""

Role = Literal["user", "assistant"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, and what was done so that they fit.

    `n_dropped` counts what was left out: examples or turns, else tokens that were cut. The first
    `n_shared` ids are those of every prompt with the same examples.
    """

    ids: list[int]
    n_examples: int = 0
    n_dropped: int = 0
    notes: tuple[str, ...] = ()
    n_shared: int = 0
    n_cut: int = 0
    """Tokens that went in the middle of a text: of a prompt, or of a turn."""


def encode(segments: Iterable[Segment], tokenizer: Tokenizer) -> list[int]:
    """Return the ids of segments; text never becomes a control token, whatever it says."""
    ids: list[int] = []
    for control, group in groupby(segments, key=lambda segment: segment.control):
        if control:
            ids += [_control(segment.text, tokenizer) for segment in group]
        else:
            # Joined first: a token may reach over the border of two segments.
            ids += encode_text("".join(segment.text for segment in group), tokenizer)
    return ids


def encode_text(text: str, tokenizer: Tokenizer) -> list[int]:
    """Return the ids of plain text; whatever a tokenizer raises is an error that names it."""
    with plugin_code(f"tokenizer '{tokenizer.name}'"):
        ids = tokenizer.encode_ordinary(text)
    if not isinstance(ids, list):
        raise PluginError(f"tokenizer '{tokenizer.name}' returned {type(ids).__name__}, no list")
    return ids


def _control(name: str, tokenizer: Tokenizer) -> int:
    if name not in tokenizer.special:
        known = ", ".join(tokenizer.special) or "none"
        raise RequestError(
            f"the template needs the control token {name!r}; the tokenizer has: {known}",
            hint="choose a template of plain text, such as dialogue",
        )
    return tokenizer.special[name]


def special_strings(text: str, tokenizer: Tokenizer) -> int:
    """Count names of control tokens in `text`, which are encoded as the text that they are."""
    return sum(text.count(name) for name in tokenizer.special)


def few_shot(
    template: Template,
    examples: Sequence[Mapping[str, str]],
    fields: Mapping[str, str],
    tokenizer: Tokenizer,
    room: int,
    on_overflow: str = "error",
    *,
    best_last: bool = False,
) -> Prompt:
    """Return a prompt of at most `room` tokens, with as many of the first examples as fit.

    With `best_last` the examples are this row's own and the last ones matter most: as many of
    those, and nothing behind the head is counted as shared.
    """
    head, item = template.head(), template.item(fields)
    shots = [template.example(example) for example in examples]

    def pieces(dropped: int) -> list[Segment]:
        kept = shots[dropped:] if best_last else shots[: len(shots) - dropped]
        return [*head, *(piece for shot in kept for piece in shot)]

    def ids(dropped: int) -> list[int]:
        return encode([*pieces(dropped), *item], tokenizer)

    dropped, found = _fewest_dropped(ids, len(shots), room)
    left_out = f"{dropped} of {len(shots)} examples left out to fit"
    notes = (left_out,) if dropped else ()
    if len(found) > room:
        cut = _truncated(found, room, on_overflow)
        if cut is None:
            without = " even without examples" if shots else ""
            raise _overflow(f"prompt has {len(found):,} tokens{without}", found, room)
        too_many = len(found) - room
        side = "start" if on_overflow == "truncate_left" else "end"
        notes = (*notes, f"{too_many:,} tokens cut from the {side} of the prompt")
        return Prompt(cut, 0, dropped or too_many, notes, n_cut=too_many)
    before = encode(head if best_last else pieces(dropped), tokenizer)
    # The last token may be another one where the item follows.
    n_shared = len(before) - 1 if found[: len(before) - 1] == before[:-1] else 0
    return Prompt(found, len(shots) - dropped, dropped, notes, max(n_shared, 0))


def conversation(
    template: ChatTemplate,
    system: str | None,
    turns: Sequence[tuple[Role, str]],
    tokenizer: Tokenizer,
    room: int,
    first: int = 0,
    on_overflow: str = "drop_oldest",
) -> Prompt:
    """Return a prompt of at most `room` tokens that asks for the answer to the last turn.

    The oldest `first` turns are no longer in force, of those that may go. When the rest does not
    fit, the oldest exchanges are dropped until a quarter of the room is free, so that the turns
    after this one find their start computed.
    """
    head, reply = template.head(system), template.reply()
    asked = [i for i, (role, _) in enumerate(turns) if role == "user"]
    kept = turns[: asked[1]] if on_overflow == "keep_system_and_examples" and asked[1:] else ()
    begin = len(kept) + first
    starts = [begin, *(i for i in asked if i > begin)]

    def ids(dropped: int) -> list[int]:
        said = [template.turn(role, text) for role, text in (*kept, *turns[starts[dropped] :])]
        return encode([*head, *(piece for turn in said for piece in turn), *reply], tokenizer)

    found = ids(0)
    if len(found) <= room:
        return Prompt(found)
    if on_overflow == "error":
        hint = "on_overflow=drop_oldest leaves out the oldest turns"
        raise _overflow(f"conversation has {len(found):,} tokens", found, room, hint)
    if on_overflow == "slide":
        return _slid(found, len(encode(head, tokenizer)), room)
    dropped, found = _fewest_dropped(ids, len(starts) - 1, room - room // 4)
    if len(found) > room:
        raise _overflow(f"message alone makes {len(found):,} tokens", found, room)
    return Prompt(found, n_dropped=starts[dropped] - begin)


def _slid(ids: list[int], n_head: int, room: int) -> Prompt:
    """Return the prompt without the oldest tokens behind its head.

    They go in steps of a quarter of the room, so that the next turns find their start computed.
    """
    step = max(1, room // 4)
    cut = -(-(len(ids) - room) // step) * step
    if n_head + cut >= len(ids):
        raise _overflow(f"message alone makes {len(ids):,} tokens", ids, room)
    return Prompt(ids[:n_head] + ids[n_head + cut :], n_cut=cut)


def fit(ids: list[int], room: int, on_overflow: str, *, context: int, new: int) -> list[int]:
    """Return the ids of a plain prompt, truncated to `room` where `on_overflow` says so."""
    if len(ids) <= room:
        return ids
    cut = _truncated(ids, room, on_overflow)
    if cut is None:
        raise ContextOverflow(
            f"prompt has {len(ids):,} tokens, {len(ids) - room:,} more than fit; "
            f"the model's context is {context:,} and {new:,} new ones were asked for",
            hint="--on-overflow truncate_left",
        )
    return cut


def blank_before_output(template: Template | ChatTemplate) -> str:
    """Return the blank that a template has between the cut prompt and its output, often one space.

    A model that follows the template writes it first; it belongs to the form, not to the answer.
    It is found by comparing a whole piece with the cut one that begins it.
    """
    if isinstance(template, ChatTemplate):
        cut, whole = template.reply(), template.turn("assistant", "\0")
    else:
        fields = dict.fromkeys(template.inputs, "x")
        cut, whole = template.item(fields), template.example({**fields, template.output: "\0"})
    before, text = ("".join(piece.text for piece in pieces) for pieces in (cut, whole))
    between = text.removeprefix(before).partition("\0")[0]
    return between if text.startswith(before) and between.isspace() else ""


def _truncated(ids: list[int], room: int, on_overflow: str) -> list[int] | None:
    if on_overflow == "truncate_left":
        return ids[len(ids) - room :]
    return ids[:room] if on_overflow == "truncate_right" else None


def _overflow(
    what: str,
    ids: Sequence[int],
    room: int,
    hint: str = "shorten it, or ask for fewer new tokens",
) -> ContextOverflow:
    return ContextOverflow(
        f"{what}, {len(ids) - room:,} more than the {room:,} that fit before the answer",
        hint=hint,
    )


def _fewest_dropped(
    ids: Callable[[int], list[int]], most: int, limit: int
) -> tuple[int, list[int]]:
    """Return the least number of dropped pieces with which ids fit, and those; else `most`."""
    made: dict[int, list[int]] = {}

    def fits(dropped: int) -> bool:
        made[dropped] = ids(dropped)
        return len(made[dropped]) <= limit

    if fits(0):
        return 0, made[0]
    dropped = min(bisect_left(range(most + 1), True, lo=1, key=fits), most)
    return dropped, made[dropped] if dropped in made else ids(dropped)
