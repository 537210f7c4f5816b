"""Stop at a text, wherever the tokens cut it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gptkit.plugin_api import Stop, StoppingCriterion, param

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gptkit.plugin_api import RequestView


class Strings(StoppingCriterion):
    """End at one of these texts, over token boundaries; the text itself is cut."""

    name = "strings"
    rank = 30
    strings = param((), items=str, help="texts that end the sequence")
    include = param(False, help="keep the stop text in the answer")

    def init_state(self, request: RequestView) -> Any:
        """Return the automaton and its first node; the pair is a value."""
        stops = tuple(text.encode() for text in request.params["strings"])
        return Automaton.build(stops), 0, bool(request.params["include"])

    def push(self, state: Any, token_id: int, data: bytes, n_out: int) -> tuple[Any, Stop | None]:
        """Stop where the earliest text ends; hold back what may still become one, and no more."""
        automaton, node, include = state
        for done, byte in enumerate(data, start=1):
            node = automaton.after(node, byte)
            if length := automaton.stop[node]:
                cut = len(data) - done + (0 if include else length)
                return (automaton, 0, include), Stop("stop_string", cut_bytes=cut)
        held = 0 if include else automaton.depth[node]
        return (automaton, node, include), Stop(hold_bytes=held) if held else None


@dataclass(frozen=True, slots=True)
class Automaton:
    """Finds the earliest end of any of some byte strings, of these the longest.

    Aho and Corasick 1975, "Efficient string matching". The node is the longest end of the text so
    far that begins a stop; `depth` of it is its length, hence what must be held back.
    """

    children: tuple[dict[int, int], ...]
    fail: tuple[int, ...]
    stop: tuple[int, ...]
    depth: tuple[int, ...]

    @classmethod
    def build(cls, stops: Iterable[bytes]) -> Automaton:
        """Return the automaton of these strings, none of them empty."""
        children: list[dict[int, int]] = [{}]
        fail, stop, depth = [0], [0], [0]
        for text in stops:
            node = 0
            for byte in text:
                if byte not in children[node]:
                    children[node][byte] = len(children)
                    children.append({})
                    fail.append(0)
                    stop.append(0)
                    depth.append(depth[node] + 1)
                node = children[node][byte]
            stop[node] = len(text)
        queue = deque(children[0].values())
        while queue:
            node = queue.popleft()
            for byte, child in children[node].items():
                back = fail[node]
                while back and byte not in children[back]:
                    back = fail[back]
                fail[child] = children[back].get(byte, 0)
                stop[child] = stop[child] or stop[fail[child]]
                queue.append(child)
        return cls(tuple(children), tuple(fail), tuple(stop), tuple(depth))

    def after(self, node: int, byte: int) -> int:
        """Return the node after one more byte."""
        while node and byte not in self.children[node]:
            node = self.fail[node]
        return self.children[node].get(byte, 0)
