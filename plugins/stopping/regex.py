"""Stop at a pattern, wherever the tokens cut it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gptkit.plugin_api import ConfigError, RequestError, Stop, StoppingCriterion, param

from .decoded import decoded, n_bytes

if TYPE_CHECKING:
    from gptkit.plugin_api import RequestView

TIMEOUT_S = 0.5
"""How long one look at the window may take; some patterns take time exponential in its length."""


class Regex(StoppingCriterion):
    r"""End as soon as the text matches a pattern, over token boundaries; the match is cut.

    The pattern is tried after each character as if the text ended there, so `\d+` ends at the first
    digit. Of the matches that end there the longest counts. The syntax is that of the module regex.
    """

    name = "regex"
    rank = 32
    pattern = param("", examples=(r"\n\s*\n", "[Ee]nd"), help="pattern that ends the sequence")
    include = param(False, help="keep the match in the answer")
    max_window = param(256, ge=1, le=65_536, help="bytes that a match may have at most")

    def init_state(self, request: RequestView) -> _Window:
        """Return the empty window."""
        import regex

        pattern, most = request.params["pattern"], request.params["max_window"]
        try:
            compiled = regex.compile(pattern)
        except regex.error as error:
            raise ConfigError(f"stop regex {pattern!r}: {error}") from error
        if compiled.search(""):
            raise ConfigError(
                f"stop regex {pattern!r} matches the empty text, so it would end at once",
                hint="give a pattern that needs at least one character",
            )
        return _Window(compiled, most, bool(request.params["include"]))

    def push(self, state: Any, token_id: int, data: bytes, n_out: int) -> tuple[Any, Stop | None]:
        """Stop where the first match ends; hold back what may still become one, and no more."""
        window: _Window = state
        new, rest = decoded(window.rest + data)
        text, start, size = window.text + new, window.start, window.size
        for end in range(len(window.text) + 1, len(text) + 1):
            size += n_bytes(text[end - 1])
            while size > window.most:
                size -= n_bytes(text[start])
                start += 1
            match = window.search(text, start, end)
            if match is not None:
                cut = n_bytes(text[end:]) + len(rest)
                cut += 0 if window.include else n_bytes(match.group())
                after = replace(window, text=text[end - 1 : end], start=1, size=0, rest=rest)
                return after, Stop("stop_regex", cut_bytes=cut)
        before = max(start - 1, 0)
        window = replace(window, text=text[before:], start=start - before, size=size, rest=rest)
        held = 0 if window.include else window.held()
        return window, Stop(hold_bytes=held) if held else None


@dataclass(frozen=True, slots=True)
class _Window:
    """The last bytes of the text, as far back as a match may reach."""

    pattern: Any
    most: int
    include: bool
    text: str = ""
    start: int = 0
    """1 where the first character stands before the window, so that `^` and `\\b` can see it."""
    size: int = 0
    """Bytes from the start on."""
    rest: bytes = b""
    """The start of a character that is not complete."""

    def search(self, text: str, start: int, end: int, *, partial: bool = False) -> Any:
        """Return the leftmost match; raise RequestError where the pattern takes too long."""
        try:
            return self.pattern.search(text, start, end, partial=partial, timeout=TIMEOUT_S)
        except TimeoutError as error:
            raise RequestError(
                f"stop regex {self.pattern.pattern!r} took more than {TIMEOUT_S} s",
                hint="simplify nested repetitions, or lower max_window",
            ) from error

    def held(self) -> int:
        """Return how many bytes at the end may become a match, where there is none yet."""
        match = self.search(self.text, self.start, len(self.text), partial=True)
        begun = self.text[match.start() :] if match is not None else ""
        return n_bytes(begun) + len(self.rest) if begun else 0
