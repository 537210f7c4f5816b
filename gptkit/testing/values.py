"""Legal values for a plugin's parameters, from what it declares alone: range, choices, examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from gptkit.errors import ConfigError, RequestError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping

    from gptkit.plugin_api import Param, Plugin
    from gptkit.testing.report import Examination

T = TypeVar("T")

N_TRIES = 50
FAR = 1000
"""Stands for the end of a range that has none."""
NEAR = 3.0
"""How far beyond its lower end, or its default, such a range is tried as a rule."""
WIDE = 10
TINY = 1e-6
"""How near a value comes to an end that is no part of the range."""
WORDS = ("a", " the", "ing", "\n", "e ")
"""Texts for a list of texts that has no examples."""


def choose(plugin: type[Plugin], rng: random.Random, vocab_size: int) -> dict[str, Any]:
    """Return values inside the ranges, at which the plugin is on."""
    params = plugin.params
    values = {key: within(p, rng, vocab_size) for key, p in params.items()}
    if rng.random() < 0.3 and params:  # one alone: others may exclude it
        chosen = rng.choice(list(params))
        values = {key: values[key] if key == chosen else p.default for key, p in params.items()}
    for _ in range(N_TRIES):
        if not stands_off(plugin, values):
            break
        key = rng.choice([key for key, p in params.items() if p.off is not None])
        values[key] = within(params[key], rng, vocab_size)
    return values


def admitted(make: Callable[[], T]) -> T:
    """Return what `make` makes of values that are chosen anew until the plugin takes them.

    It may refuse what excludes each other, or a text that a vocabulary can't say; if it refuses
    everything, the last refusal is raised.
    """
    for left in reversed(range(N_TRIES)):
        try:
            return make()
        except (ConfigError, RequestError):
            if not left:
                raise
    raise AssertionError("unreachable")


def off_values(plugin: type[Plugin], rng: random.Random, vocab_size: int) -> dict[str, Any]:
    """Return values at which the plugin is off, the rest of them as they come."""
    chosen = choose(plugin, rng, vocab_size)
    return {k: chosen[k] if p.off is None else p.off for k, p in plugin.params.items()}


def stands_off(plugin: type[Plugin], values: Mapping[str, Any]) -> bool:
    """Return whether all parameters that have an off value stand at it."""
    offs = {key: p.off for key, p in plugin.params.items() if p.off is not None}
    return bool(offs) and all(values[key] == off for key, off in offs.items())


def within(p: Param, rng: random.Random, vocab_size: int) -> Any:
    """Return a value inside the range; numbers are often near the default."""
    if p.examples:
        return rng.choice((p.default, *p.examples, *p.examples))
    if p.choices:
        return rng.choice(p.choices)
    if p.kind is bool:
        return rng.random() < 0.5
    if p.items is int:
        return tuple(rng.randrange(vocab_size) for _ in range(rng.randint(1, 3)))
    if p.items is str:
        return tuple(rng.sample(WORDS, rng.randint(1, 3)))
    if p.kind is dict:
        words = rng.sample(WORDS, rng.randint(1, 3))
        return {word: _number(p, 0.0, rng) for word in words}
    if p.kind is float:
        return _number(p, p.default, rng)
    if p.kind is int:
        return round(_number(p, p.default, rng))
    return p.default


def _number(p: Param, default: float, rng: random.Random) -> float:
    low, high = _span(p, default)
    near = min(high - low, max(1.0, abs(default)))
    value = default + rng.uniform(-near, near)
    if rng.random() < 0.5 or not low < value < high:
        power = 3 if high - low > WIDE else 1  # of a wide range mostly the lower part is in use
        value = low + (high - low) * rng.uniform(0.05, 0.95) ** power
    return value


def _span(p: Param, default: float) -> tuple[float, float]:
    """Return the ends of the range; an open one ends not far off, a closed one one unit inside."""
    low = p.ge if p.ge is not None else p.gt
    high = p.le if p.le is not None else p.lt
    step = 1 if p.kind is int else 0
    if low is None:
        low = min(default, high if high is not None else default) - NEAR
    if high is None or high > low + FAR:
        high = max(low, default) + (4 * NEAR if p.kind is int else NEAR)
    return low + step * (p.gt is not None), high - step * (p.lt is not None)


def ends(p: Param) -> list[Any]:
    """Return the values at the ends of a range of numbers, and far out where it has no end."""
    if p.kind not in (int, float) or p.items is not None:
        return []
    step = 1 if p.kind is int else TINY
    low = p.ge if p.ge is not None else p.gt + step if p.gt is not None else -FAR
    high = p.le if p.le is not None else p.lt - step if p.lt is not None else max(low, 0) + FAR
    return [p.kind(low), p.kind(high)]


def check_declared(exam: Examination, plugin: type[Plugin], code: str) -> None:
    """Look at what the class itself could not: help and examples of its parameters."""
    for key, p in plugin.params.items():
        if not p.help:
            exam.find(code, f"{key} has no help")
        for example in p.examples:
            try:
                p.check(f"example of {key}", example)
            except ConfigError as error:
                exam.find(code, str(error))
        if p.kind is str and not p.choices and not p.examples:
            exam.find(
                code, f"{key} is a text without examples, so only its default is tried", "warning"
            )
