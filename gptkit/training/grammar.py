"""A small grammar that multiplies written text: choices and lists, expanded with a given chance.

`{a|b|}` is one of its alternatives, which may nest and may be empty. `$name` is an entry of the
list `name`, the same one wherever it stands in the texts that are expanded together; `$name2`,
`$name3` are other entries of that list. `${name}` sets the name off from what follows, and `$$` is
a dollar. Entries of a list may hold all of this themselves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from gptkit.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence

    Lists = Mapping[str, Sequence[str]]

_PIECE = re.compile(r"\$\$|\$\{(\w+)\}|\$([A-Za-z_]\w*)|[{|}]|[^${|}]+|\$")


def expand(texts: Sequence[str], lists: Lists, rng: random.Random) -> list[str]:
    """Return one expansion of texts that belong together; raise ConfigError naming the text."""
    expansion = _Expansion(lists, rng)
    return [expansion.of(text) for text in texts]


@dataclass(frozen=True, slots=True)
class _Name:
    name: str


@dataclass(frozen=True, slots=True)
class _Choice:
    alternatives: tuple[_Sequence, ...]


_Sequence = tuple[str | _Name | _Choice, ...]


@lru_cache(maxsize=100_000)
def _parse(text: str) -> _Sequence:
    """Return the text as a sequence of literals, names and choices."""
    open_choices: list[list[list[str | _Name | _Choice]]] = [[[]]]
    for piece in _PIECE.finditer(text):
        shown, name = piece.group(), piece[1] or piece[2]
        here = open_choices[-1]
        if name:
            here[-1].append(_Name(name))
        elif shown == "{":
            open_choices.append([[]])
        elif shown == "|" and len(open_choices) > 1:
            here.append([])
        elif shown == "}":
            if len(open_choices) == 1:
                raise ConfigError(f"a '}}' closes nothing in {_shown(text)}")
            closed = _Choice(tuple(map(tuple, open_choices.pop())))
            open_choices[-1][-1].append(closed)
        elif shown == "$":
            raise ConfigError(
                f"a lone '$' in {_shown(text)}", hint="write $$ for a dollar, $name for a list"
            )
        else:
            here[-1].append("$" if shown == "$$" else shown)
    if len(open_choices) > 1:
        raise ConfigError(f"a '{{' is never closed in {_shown(text)}")
    return tuple(open_choices[0][0])


class _Expansion:
    """One expansion, with what it has picked for each name so far."""

    def __init__(self, lists: Lists, rng: random.Random) -> None:
        self.lists = lists
        self.rng = rng
        self.picked: dict[str, str] = {}
        self.taken: dict[str, set[str]] = {}
        self.pending: set[str] = set()

    def of(self, text: str) -> str:
        return self._fill(_parse(text), text)

    def _fill(self, sequence: _Sequence, text: str) -> str:
        said = []
        for part in sequence:
            if isinstance(part, _Choice):
                chosen = part.alternatives[self.rng.randrange(len(part.alternatives))]
                said.append(self._fill(chosen, text))
            else:
                said.append(part if isinstance(part, str) else self._entry(part.name, text))
        return "".join(said)

    def _entry(self, name: str, text: str) -> str:
        if name not in self.picked:
            if name in self.pending:
                raise ConfigError(f"list '{name}' refers to itself in {_shown(text)}")
            self.pending.add(name)
            self.picked[name] = self.of(self._pick(name, text))
        return self.picked[name]

    def _pick(self, name: str, text: str) -> str:
        base = name if name in self.lists else name.rstrip("0123456789")
        if not self.lists.get(base):
            raise ConfigError(
                f"no list '{base}' for {_shown(text)}",
                hint=did_you_mean(base, self.lists) or "give it under lists:",
            )
        taken = self.taken.setdefault(base, set())
        free = [entry for entry in self.lists[base] if entry not in taken]
        if not free:
            raise ConfigError(f"list '{base}' has too few entries for ${name} in {_shown(text)}")
        entry = free[self.rng.randrange(len(free))]
        taken.add(entry)
        return entry


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
