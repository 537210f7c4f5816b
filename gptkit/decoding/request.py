"""What one generation was asked to do, and the events that it yields. No torch.

Chains and stopping criteria are read from what users wrote, checked against the registry, all
errors at once, before a model loads.
"""

from __future__ import annotations

import re
import secrets
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from gptkit.config import Settings
from gptkit.decoding.presets import PresetName
from gptkit.errors import ConfigError, GptkitError, UnknownName, did_you_mean, plugin_failure
from gptkit.plugin_api import OFF, PHASES, Param, Params, Sampler, StoppingCriterion, param

if TYPE_CHECKING:
    from pathlib import Path

    from gptkit.plugin_api import Drafter, Plugin
    from gptkit.plugin_host import Kind, Registry

MAX_SEED = 2**63 - 1
MAX_NEW_TOKENS = 128
"""Where nobody says otherwise."""
SHORTHANDS = ("temperature", "top_k", "top_p")

LIMITS: dict[str, Param] = {
    "max_new_tokens": param(MAX_NEW_TOKENS, ge=0, le=10**9, help="tokens to write at most"),
    "max_time_s": param(0.0, ge=0, le=1e9, off=0.0, help="seconds from admission"),
    "ignore_eos": param(False, help="go on after the model's own end-of-text token"),
}
"""The keys of a `stop` block that are no names of criteria."""

Item = str | dict[str, Any]
"""One stage as YAML has it: a name, or a mapping of one name to a value or to parameters."""


class SamplingSettings(Settings):
    """The `sampling` block of jobs, recipes, checkpoints and the REPL."""

    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="without one, 63 random bits")
    preset: PresetName | None = Field(None, description="the chain of another engine")
    chain: tuple[Item, ...] | None = Field(
        None, strict=False, description="or stages of your own, in order"
    )
    speculate: Item | None = Field(None, description="who guesses ahead, such as prompt_lookup")
    strategy: Item | None = Field(None, description="a loop of its own, such as beam")

    @model_validator(mode="after")
    def _one_chain(self) -> Self:
        if self.preset is not None and self.chain is not None:
            raise ValueError("a preset is a whole chain, and there is a chain as well; keep one")
        return self


@dataclass(frozen=True, slots=True)
class Stage:
    """A sampler in its place in a chain, with the values of all its parameters."""

    label: str
    sampler: type[Sampler]
    values: Mapping[str, Any]
    is_off: bool = field(init=False, repr=False, compare=False)
    """Whether all parameters that have an off value stand at theirs."""
    rounded: Params = field(init=False, repr=False, compare=False)
    """The values as `apply` gets them, whose numbers are float32."""

    def __post_init__(self) -> None:
        offs = {key: p.off for key, p in self.sampler.params.items() if p.off is not None}
        is_off = bool(offs) and all(self.values[key] == off for key, off in offs.items())
        object.__setattr__(self, "is_off", is_off)  # it is asked for each row of each step
        numbers = {key: one for key, one in self.values.items() if type(one) is float}
        rounded = dict(zip(numbers, array("f", numbers.values()), strict=True))
        object.__setattr__(self, "rounded", Params({**self.values, **rounded}))

    def with_files(self, folder: Path) -> Stage:
        """Return the stage with what files say in the place of their paths, from a folder."""
        try:
            return replace(self, values=self.sampler.read_files(self.values, folder))
        except GptkitError:
            raise
        except Exception as error:
            raise plugin_failure(f"sampler '{self.label}'", error) from error

    def as_item(self) -> Item:
        """Return the stage as YAML would have it, off values as `off`."""
        params = self.sampler.params
        plain = {key: _plain(params[key], value) for key, value in self.values.items()}
        if self.label != self.sampler.name:
            return {self.sampler.name: {**plain, "as": self.label}}
        if not plain:
            return self.label
        first = next(iter(plain.values()))
        bare = not isinstance(first, dict) or _is_value(params, first)
        return {self.label: first if len(plain) == 1 and bare else plain}

    def __str__(self) -> str:
        shown = {key: self.sampler.params[key].show(value) for key, value in self.values.items()}
        if self.label != self.sampler.name:
            shown["as"] = self.label
        elif len(shown) < 2:
            return "=".join((self.label, *shown.values()))
        return f"{self.sampler.name}:" + ",".join(f"{key}={one}" for key, one in shown.items())

    @property
    def brief(self) -> str:
        """The stage in a few words: only what does not stand at its default."""
        if self.is_off:
            return f"{self.label}={OFF}"
        params = self.sampler.params
        said = {k: params[k].show(v) for k, v in self.values.items() if v != params[k].default}
        first = next(iter(params), "")
        if list(said) == [first]:
            return f"{self.label}={said[first]}"
        pairs = ",".join(f"{key}={value}" for key, value in said.items())
        return f"{self.label}:{pairs}" if pairs else self.label


Chain = tuple[Stage, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """A plugin that was chosen by name, with the values of all its parameters."""

    plugin: Any
    values: Mapping[str, Any]

    def as_item(self) -> Item:
        """Return it as YAML would have it."""
        params = self.plugin.params
        return {self.plugin.name: {k: _plain(params[k], v) for k, v in self.values.items()}}

    def __str__(self) -> str:
        params = self.plugin.params
        given = [f"{k}={v}" for k, v in self.values.items() if v != params[k].default]
        name: str = self.plugin.name
        return f"{name}:{','.join(given)}" if given else name


@dataclass(frozen=True, slots=True)
class Criterion:
    """A stopping criterion with the values of all its parameters."""

    criterion: type[StoppingCriterion]
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Stops:
    """When a generation ends, besides the model's own end-of-text tokens and a full context."""

    max_new_tokens: int = MAX_NEW_TOKENS
    max_time_s: float = 0.0
    ignore_eos: bool = False
    criteria: tuple[Criterion, ...] = ()

    def token_ids(self, eos_ids: frozenset[int]) -> frozenset[int]:
        """Return the tokens that end a sequence as such, of a model with these `eos_ids`."""
        ours = (c.criterion.token_ids(c.values) for c in self.criteria)
        return frozenset().union(() if self.ignore_eos else eos_ids, *ours)


@dataclass(frozen=True, slots=True)
class Draft:
    """Who guesses the next tokens, how many at once, and the values of its parameters."""

    drafter: Callable[[], Drafter]
    k: int
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to generate. `logprobs` asks for those of the token and of that many others.

    They are `raw`, before the chain, or `final`, after it. Requests whose first `n_shared` tokens
    are equal share what is computed of them, and read it together.
    """

    prompt_ids: tuple[int, ...]
    chain: Chain
    stops: Stops
    seed: int
    logprobs: int | None = None
    logprobs_of: Literal["raw", "final"] = "raw"
    trace: bool = False
    n_shared: int = 0
    draft: Draft | None = None
    strategy: Choice | None = None

    @property
    def asks_for_final(self) -> bool:
        """Whether somebody wants to know what the chain's stages made of the logits."""
        return self.trace or (self.logprobs is not None and self.logprobs_of == "final")


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that might have been: its log-probability in nats, before the chain."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class StageTrace:
    """What one stage did to a row; the first is what the model gave, under the label `model`.

    Survivors and entropy (nats) are those after it, `best_removed` the likeliest token that it
    forbade. Rank (from 1) and probability are those of the token that was chosen in the end; a
    forbidden one has no rank.
    """

    label: str
    survivors: int
    removed_mass: float
    entropy: float
    rank_before: int | None
    rank_after: int | None
    p_before: float
    p_after: float
    best_removed: int | None


@dataclass(frozen=True, slots=True)
class Event:
    """One step of a generation: text that may be shown, and at the end why it ended.

    `token_id` is None where only held text is let go. `error` goes with the reason `error`.
    """

    text: str = ""
    token_id: int | None = None
    logprob: float | None = None
    alternatives: tuple[Alternative, ...] = ()
    trace: tuple[StageTrace, ...] = ()
    finish_reason: str | None = None
    error: GptkitError | None = None
    n_reused: int = 0
    """Tokens of the prompt that were taken from the cache."""
    n_drafted: int = 0
    """Tokens that were guessed so far, and below, how many of them were right."""
    n_accepted: int = 0


# Reading chains -------------------------------------------------------------------------------


def parse_stage(text: str) -> Item:
    """Read `NAME`, `NAME=VALUE` or `NAME:KEY=VALUE,...` as typed after `-s`."""
    head, colon, rest = text.partition(":")
    if colon and "=" not in head:
        pairs = dict(pair.partition("=")[::2] for pair in re.split(r",(?=\w+=)", rest))
        return {head: {key: _Typed(value) for key, value in pairs.items()}}
    name, equals, value = text.partition("=")
    return {name: _Typed(value)} if equals else name


class _Typed(str):
    """A value typed on a command line: text that stands for a number where one is wanted."""


def resolve_chain(
    items: Sequence[Item],
    registry: Registry,
    *,
    base: Sequence[Stage] | None = None,
    shorthands: Mapping[str, str] | None = None,
) -> Chain:
    """Return the chain that `items` describe, ending in a picker; report all errors at once.

    Without `base` the order of the items is the chain's. Over a base, an item changes a listed
    stage in its place, and another joins where its phase and rank put it. `shorthands` are the
    values of --temperature, --top-k and --top-p: they make a chain of their own, or change the
    stage of an explicit chain, which must have it.
    """
    errors: list[GptkitError] = []
    chain: list[Stage] = list(base or ())
    explicit = base is not None or bool(items)
    for item in items:
        try:
            _place(chain, _stage(item, registry, chain), over=base is not None, item=item)
        except GptkitError as error:
            errors.append(error)
    for name, text in (shorthands or {}).items():
        option = f"--{name.replace('_', '-')}"
        try:
            stage = _stage({name: _Typed(text)}, registry, chain, where=option)
            if explicit and not any(old.label == name for old in chain):
                raise ConfigError(
                    f"{option} is given but the chain has no {name}",
                    hint=f"add -s {name}={text} where you want it",
                )
            _place(chain, stage, over=True, item={name: text})
        except GptkitError as error:
            errors.append(error)
    _raise_all(errors)
    return tuple(_with_picker(chain, registry))


def _stage(item: Item, registry: Registry, chain: Sequence[Stage], where: str = "") -> Stage:
    name, raw = _name_and_value(item, "a sampler")
    sampler: type[Sampler] = _find(registry, "sampler", name)
    given = _given(sampler.params, name, raw)
    label = str(given.pop("as", name.rpartition("/")[2]))
    old = next((stage.values for stage in chain if stage.label == label), {})
    values = _values(sampler.params, given, name, old, where)
    return Stage(label, sampler, values)


def _place(chain: list[Stage], stage: Stage, *, over: bool, item: Item) -> None:
    for i, old in enumerate(chain):
        if old.label == stage.label:
            if not over:
                raise ConfigError(
                    f"{stage.label} is given twice",
                    hint=f"write {stage.label}:...,as=NAME for a second one",
                )
            chain[i] = stage
            return
    if not over:
        chain.append(stage)
        return
    if stage.sampler.phase == "pick":  # there is one, so this one comes in its place
        chain[:] = [old for old in chain if old.sampler.phase != "pick"]
    key = _default_place(stage)
    at = next((i for i, old in enumerate(chain) if _default_place(old) > key), len(chain))
    chain.insert(at, stage)


def _default_place(stage: Stage) -> tuple[int, int]:
    return PHASES.index(stage.sampler.phase), stage.sampler.rank


def _with_picker(chain: list[Stage], registry: Registry) -> list[Stage]:
    pickers = [stage for stage in chain if stage.sampler.phase == "pick"]
    if len(pickers) > 1:
        two = " and ".join(stage.label for stage in pickers[:2])
        raise ConfigError(f"the chain has two pickers: {two}", hint="keep one")
    if pickers and chain[-1] is not pickers[0]:
        raise ConfigError(
            f"{pickers[0].label} picks the token, so nothing can follow it", hint="put it last"
        )
    return chain if pickers else [*chain, _stage("sample", registry, ())]


def is_greedy(chain: Sequence[Stage]) -> bool:
    """Return whether a chain always takes the best token, so that a seed changes nothing."""
    cold = (s.sampler.name == "temperature" and s.values["t"] == 0 for s in chain)
    return any(cold) or any(stage.sampler.name == "greedy" for stage in chain)


def resolve_choice(
    item: Item, kind: Kind, registry: Registry, ours: Mapping[str, type[Plugin]] | None = None
) -> Choice:
    """Return the plugin that an item names, with its values; `ours` are names that we keep."""
    name, raw = _name_and_value(item, f"a {kind}")
    found = (ours or {}).get(name) or _find(registry, kind, name, ours or ())
    return Choice(found, _values(found.params, _given(found.params, name, raw), name, {}))


# Reading stops --------------------------------------------------------------------------------


def resolve_stops(
    block: Mapping[str, Any], registry: Registry, *, max_new_tokens: int = MAX_NEW_TOKENS
) -> Stops:
    """Return what a `stop` block asks for; `max_new_tokens` is the default where it says nothing.

    Keys that are not in LIMITS are names of stopping criteria, each with the value of its first
    parameter or with a mapping. Raise ConfigError with all errors.
    """
    errors: list[GptkitError] = []
    stops = Stops(max_new_tokens=max_new_tokens)
    criteria: list[Criterion] = []
    for key, raw in block.items():
        try:
            if key in LIMITS:
                stops = replace(stops, **{key: _limit(key, raw)})
            else:
                found: type[StoppingCriterion] = _find(registry, "stopping", key, LIMITS)
                given = _given(found.params, key, raw)
                criteria.append(Criterion(found, _values(found.params, given, key, {})))
        except GptkitError as error:
            errors.append(error)
    _raise_all(errors)
    return replace(stops, criteria=tuple(criteria))


def _limit(key: str, raw: Any) -> Any:
    """Return the value of one of LIMITS; one that is true or false is true where it is named."""
    if raw is None and LIMITS[key].kind is bool:
        return True
    if raw is None:
        raise ConfigError(f"{key} needs a value", hint=f"write {key}=VALUE")
    return _read(LIMITS[key], key, raw)


def add_stop(block: Mapping[str, Any], name: str, values: Sequence[Any]) -> dict[str, Any]:
    """Return a `stop` block with `values` added to the list that criterion `name` takes."""
    old = block.get(name, ())
    if isinstance(old, Mapping):
        key = next(iter(old))
        return {**block, name: {**old, key: [*old[key], *values]}}
    listed = list(old) if isinstance(old, (list, tuple)) else [old]
    return {**block, name: [*listed, *(value for value in values if value not in listed)]}


# What both share ------------------------------------------------------------------------------


def _name_and_value(item: Item, what: str) -> tuple[str, Any]:
    if isinstance(item, str):
        return item, None
    if len(item) != 1:
        raise ConfigError(
            f"{list(item)}: {what} is one name with its value", hint="start a new line with '- '"
        )
    ((name, value),) = item.items()
    return name, value


def _find(registry: Registry, kind: Kind, name: str, also: Iterable[str] = ()) -> Any:
    try:
        return registry.find(kind, name).value
    except UnknownName as error:
        near = did_you_mean(name, also)
        if near and not registry.failed:
            raise UnknownName(str(error), hint=near) from None
        raise


def _given(params: Mapping[str, Any], name: str, raw: Any) -> dict[str, Any]:
    """Return the parameters that the user gave, by key; a bare value is the first parameter's."""
    if raw is None:
        return {}
    if isinstance(raw, Mapping) and not _is_value(params, raw):
        return dict(raw)
    if not params:
        raise ConfigError(f"{name} takes no value, got {raw!r}", hint=f"write {name}")
    return {next(iter(params)): raw}


def _is_value(params: Mapping[str, Param], raw: Mapping[Any, Any]) -> bool:
    """Return whether a mapping is itself the value of the first parameter, which takes one."""
    first = next(iter(params.values()), None)
    named = any(
        key in params or isinstance(value, _Typed) or (key == "as" and isinstance(value, str))
        for key, value in raw.items()
    )
    return first is not None and first.kind is dict and not named


def _plain(declared: Param, value: Any) -> Any:
    """Return a value as YAML would have it."""
    if declared.off is not None and value == declared.off:
        return OFF
    return list(value) if isinstance(value, tuple) else value


def _values(
    params: Mapping[str, Any],
    given: Mapping[str, Any],
    name: str,
    old: Mapping[str, Any],
    where: str = "",
) -> dict[str, Any]:
    values = {key: old.get(key, declared.default) for key, declared in params.items()}
    first = next(iter(params), None)
    for key, raw in given.items():
        if key not in params:
            known = f"it has: {', '.join(params)}" if params else "it has none"
            near = did_you_mean(str(key), params)
            raise ConfigError(f"{name} has no parameter '{key}'", hint=near or known)
        place = where or (name if key == first else f"{name}.{key}")
        values[key] = _read(params[key], place, raw)
    return values


def _read(declared: Param, where: str, raw: Any) -> Any:
    if isinstance(raw, _Typed):
        return declared.parse(where, str(raw))  # from here on it is text like any other
    return declared.check(where, raw)


def _raise_all(errors: Sequence[GptkitError]) -> None:
    if len(errors) == 1:
        raise errors[0]
    if errors:
        hints = [error.hint for error in errors if error.hint]
        raise ConfigError("; ".join(map(str, errors)), hint="; ".join(hints) or None)


def typed(text: str) -> str:
    """Mark a value as typed on a command line, so that `0.7` may stand for a number."""
    return _Typed(text)


def random_seed() -> int:
    """Return 63 random bits, to be shown and recorded."""
    return secrets.randbits(63)
