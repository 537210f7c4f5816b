"""Where the end of a sequence has occurred in it before: what DRY, n-gram bans and drafts ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def repeats(tokens: Sequence[int], longest: int = 0) -> Iterator[tuple[int, int]]:
    """Yield (place, length): the `length` tokens before `place` are also the last ones of all.

    The most recent place comes first; each has the longest length, but no more than `longest`
    where that is given, and at least 1. Occurrences may overlap. This is the Z-function (Gusfield
    1997, "Algorithms on strings, trees and sequences", 1.4) of the sequence read backwards, hence
    linear in its length, also where all of it is a loop.
    """
    back = list(reversed(tokens))
    size = len(back)
    longest = longest or size
    z = [0] * size
    left = right = 0  # back[left:right] begins as back does; of those known it reaches farthest
    at = 1
    while at < size:
        if at >= right:  # nothing is known from here on: skip what can't begin a repeat
            try:
                at = back.index(back[0], at)
            except ValueError:
                return
        n = min(z[at - left], right - at) if at < right else 0
        while n < longest and at + n < size and back[at + n] == back[n]:
            n += 1
        if at + n > right:
            left, right = at, at + n
        if n:
            z[at] = n
            yield size - at, n
        at += 1
