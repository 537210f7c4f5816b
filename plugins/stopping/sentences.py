"""Stop after some sentences."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from gptkit.plugin_api import Stop, StoppingCriterion, param

from .decoded import decoded, n_bytes

if TYPE_CHECKING:
    from gptkit.plugin_api import RequestView

KEPT = 64
"""Characters before a sentence's end that say what kind of end it is: all that is looked at."""
_POINTS = r"(?P<points>[.!?…]+)[\"'”’»)\]*_]{0,8}"
_END = re.compile(
    _POINTS + r"(?=[^\S\n]{0,16}\n|\s{1,16}(?P<next>\S))"
    r"|[。！？]+[」』”’）】\"']{0,8}(?=[^。！？」』”’）】\"'])"
)
_MAYBE_END = re.compile(_POINTS + r"(?P<space>\s{1,16})\Z")
_WORD = re.compile(r"(?:\w+\.)*\w+\Z")
_NUMBER = re.compile(r"\d{1,3}")
_DOTTED = re.compile(r"(?:[^\W\d_]\.){1,8}[^\W\d_]")
_ABBREVIATIONS = frozenset("cf dr eq fig mr mrs ms prof sr st vol vs".split())


class Sentences(StoppingCriterion):
    """End after n sentences, as soon as what follows shows that the last one is complete.

    A sentence ends with `.`, `!`, `?` or `…`, and what closes a quote or a bracket, before white
    space, unless a small letter follows; before a new line it ends in any case. `。`, `！` and `？`
    need no space. The point of a number, an abbreviation or an initial ends nothing, as in 3.5,
    e.g., Dr., J., nor does that of `1.` where a line begins.
    """

    name = "sentences"
    rank = 34
    n = param(1, ge=1, le=10**6, help="how many sentences")

    def init_state(self, request: RequestView) -> Any:
        """Return the sentences that are to come, the text since the last one, of which the first
        characters are judged, and the start of a character.
        """
        return request.params["n"], "", 0, b""

    def push(self, state: Any, token_id: int, data: bytes, n_out: int) -> tuple[Any, Stop | None]:
        """Stop at the sentence's end; the space after it is cut, and held back until it is sure."""
        left, text, judged, rest = state
        new, rest = decoded(rest + data)
        text += new
        counted = 0
        for match in _END.finditer(text, judged):
            judged = match.end()
            if _ends(match, text[counted : match.start()]):
                left, counted = left - 1, judged
                if left == 0:
                    cut = n_bytes(text[counted:]) + len(rest)
                    return (1, text[counted:], 0, rest), Stop("sentences", cut_bytes=cut)
        held = 0
        maybe = _MAYBE_END.search(text, judged) if left == 1 else None
        if maybe is not None and _ends(maybe, text[counted : maybe.start()]):
            held = n_bytes(maybe["space"]) + len(rest)
        gone = max(counted, len(text) - KEPT)
        state = (left, text[gone:], max(judged - gone, 0), rest)
        return state, Stop(hold_bytes=held) if held else None


def _ends(match: re.Match[str], before: str) -> bool:
    """Return whether these points end a sentence, of which `before` is the rest."""
    found = match.groupdict()
    if found["points"] is None:
        return True  # a full stop that is wide
    if (found.get("next") or "").islower():
        return False
    word = _WORD.search(before)
    if found["points"] != "." or word is None:
        return True
    if _NUMBER.fullmatch(word[0]):
        line = before[max(word.start() - 8, 0) : word.start()].rpartition("\n")[2]
        return bool(line.strip())  # where a line begins, it is the number of an item
    initial = len(word[0]) == 1 and word[0].isupper() and word[0] != "I"
    return not (initial or _DOTTED.fullmatch(word[0]) or word[0].lower() in _ABBREVIATIONS)
