"""Plugins: discover, load, index. Plain functions over plain records; no globals.

Bundled plugins are entry points of our own distribution and take the same road as everybody's. A
plugin that fails is recorded and skipped, and can't hurt another: each is registered, checked and
asked by a plugin manager of its own.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import inspect
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pluggy

from gptkit import plugin_api
from gptkit.errors import NameClash, PluginError, Terminated, UnknownName, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

GROUP = "gptkit"
OURS = "gptkit"
SUSPECTS = 3
"""How many failed plugins the message for an unknown name tells of."""

Kind = Literal["tokenizer", "sampler", "stopping", "template", "drafter", "strategy", "command"]
HOOKS: dict[str, tuple[Kind, tuple[type[plugin_api.Plugin], ...]]] = {
    "gptkit_tokenizers": ("tokenizer", (plugin_api.Tokenizer,)),
    "gptkit_samplers": ("sampler", (plugin_api.Sampler,)),
    "gptkit_stopping_criteria": ("stopping", (plugin_api.StoppingCriterion,)),
    "gptkit_templates": ("template", (plugin_api.Template, plugin_api.ChatTemplate)),
    "gptkit_drafters": ("drafter", (plugin_api.Drafter,)),
    "gptkit_strategies": ("strategy", (plugin_api.Strategy,)),
    "gptkit_commands": ("command", (plugin_api.Command,)),
}


@dataclass(frozen=True, slots=True)
class Found:
    """An entry point, or a local file, that has not been imported yet."""

    name: str
    distribution: str
    version: str
    load: Callable[[], Any]
    module: str = ""
    """What is imported: a module's name, or a local file's path."""

    @property
    def owner(self) -> str:
        """Distribution and version, as users see them."""
        return f"{self.distribution} {self.version}".strip()


@dataclass(frozen=True, slots=True)
class Offer:
    """One thing that a plugin offers under a name: a class, or a YAML file of a template."""

    kind: Kind
    name: str
    summary: str
    source: Found
    value: Any


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of one plugin; `reason` says why it failed."""

    source: Found
    offers: tuple[Offer, ...] = ()
    reason: str | None = None
    import_s: float = 0.0
    api: int | None = None
    """The number that the module gives as `gptkit_api`, if any."""


def discover(
    entry_points: Iterable[importlib.metadata.EntryPoint] | None = None,
    files: Iterable[str] | None = None,
) -> list[Found]:
    """Find plugins without importing any: bundled first, then by distribution and name.

    `files` are local plugin files; without it, those that GPTKIT_PLUGINS lists.
    """
    if files is None:
        files = filter(None, os.environ.get("GPTKIT_PLUGINS", "").split(os.pathsep))
    found: dict[tuple[str, str, str], Found] = {}
    for entry in _installed() if entry_points is None else entry_points:
        source = entry if isinstance(entry, Found) else _found(entry)
        value = "" if isinstance(entry, Found) else entry.value
        found.setdefault((source.distribution, source.name, value), source)
    ordered = [found[key] for key in sorted(found, key=lambda key: (key[0] != OURS, key))]
    return ordered + [_local(Path(file)) for file in dict.fromkeys(files)]


def _installed() -> Iterator[importlib.metadata.EntryPoint | Found]:
    # importlib.metadata.entry_points() stops at the first entry_points.txt that it can't read, of
    # whatever distribution; here that one alone is lost.
    for distribution in importlib.metadata.distributions():
        try:
            yield from [entry for entry in distribution.entry_points if entry.group == GROUP]
        except Exception as error:
            yield _unreadable(distribution, error)


def _found(entry: importlib.metadata.EntryPoint) -> Found:
    module = entry.value.partition(":")[0]
    return Found(entry.name, *_owner(entry.dist), entry.load, module)


def _unreadable(distribution: importlib.metadata.Distribution, error: Exception) -> Found:
    def load() -> Any:
        raise PluginError(f"its entry_points.txt can't be read: {_reason(error)}")

    return Found("entry_points.txt", *_owner(distribution), load)


def _owner(distribution: importlib.metadata.Distribution | None) -> tuple[str, str]:
    """Return name and version, both of which a damaged METADATA may lack."""
    if distribution is None:
        return "?", ""
    try:
        return distribution.metadata["Name"] or "?", distribution.metadata["Version"] or ""
    except Exception:  # whatever importlib.metadata makes of a file that is not there
        return "?", ""


def _local(path: Path) -> Found:
    def load() -> Any:
        if not path.is_file():
            raise FileNotFoundError(f"no such file: {path}")
        spec = importlib.util.spec_from_file_location(f"gptkit_local_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise ImportError(f"not a Python file: {path}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    return Found(path.stem, str(path), "", load, str(path))


def load(found: Iterable[Found]) -> list[Loaded]:
    """Import each plugin and ask it what it offers; a failure is a record, never an exception."""
    return [_load_one(source) for source in found]


def _load_one(source: Found) -> Loaded:
    start, api = time.perf_counter(), None
    offers: tuple[Offer, ...] = ()
    reason = None
    try:
        # A plugin that prints while it is imported must not spoil JSON on stdout.
        with contextlib.redirect_stdout(sys.stderr):
            module = source.load()
            given = getattr(module, "gptkit_api", None)
            api = given if type(given) is int else None
            offers = tuple(_offers(source, module))
    except (KeyboardInterrupt, Terminated):
        raise
    except BaseException as error:  # even sys.exit: one broken plugin never stops the others
        reason = _reason(error)
    return Loaded(source, offers, reason, time.perf_counter() - start, api)


def _reason(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it called sys.exit({error.code})"
    try:
        text = " ".join(str(error).split())
    except Exception:  # an exception of a plugin's own, whose text fails too
        text = ""
    if isinstance(error, (PluginError, ImportError, FileNotFoundError)) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _offers(source: Found, module: Any) -> Iterator[Offer]:
    wanted = getattr(module, "gptkit_api", plugin_api.API_VERSION)
    if wanted != plugin_api.API_VERSION:
        raise PluginError(f"it wants plugin api {wanted}, this is {plugin_api.API_VERSION}")
    manager = pluggy.PluginManager("gptkit")
    manager.add_hookspecs(plugin_api.Hooks)
    try:
        manager.register(module)
    except pluggy.PluginValidationError as error:
        raise PluginError(" ".join(str(error).split())) from error
    callers = manager.get_hookcallers(module) or []
    unmarked = [f for f in _functions(module) if manager.parse_hookimpl_opts(module, f) is None]
    if unmarked:
        raise PluginError(f"{min(unmarked)} is not marked @hookimpl, so nobody would call it")
    if not callers:
        raise PluginError("it has no hook: no function in it is marked @hookimpl")
    for caller in callers:  # pluggy itself accepts a misspelt hook in silence
        if not caller.has_spec():
            hint = did_you_mean(caller.name, HOOKS)
            raise PluginError(f"unknown hook '{caller.name}'" + (f" ({hint})" if hint else ""))
    seen: set[tuple[str, str]] = set()
    for caller in callers:
        kind, bases = HOOKS[caller.name]
        for value in _ask(caller):
            offer = _offer(source, caller.name, kind, bases, value)
            if (kind, offer.name) in seen:
                raise PluginError(f"{caller.name} yields '{offer.name}' twice")
            seen.add((kind, offer.name))
            yield offer


def _functions(module: Any) -> Iterator[str]:
    """Find what is named as a hook; pluggy passes over a hook that lacks its mark in silence."""
    for name, value in list(vars(module).items()):
        if name.startswith("gptkit_") and inspect.isfunction(value):
            yield name


def _ask(caller: pluggy.HookCaller) -> list[Any]:
    try:
        answers = caller()
        values = [value for answer in answers for value in answer]
    except Exception as error:
        raise PluginError(f"{caller.name} failed: {_reason(error)}") from error
    if not answers:  # pluggy drops a None
        raise PluginError(f"{caller.name} returns nothing; it must yield")
    return values


def _offer(
    source: Found, hook: str, kind: Kind, bases: tuple[type[plugin_api.Plugin], ...], value: Any
) -> Offer:
    if isinstance(value, type) and issubclass(value, bases):
        if abstract := getattr(value, "__abstractmethods__", None):
            missing = ", ".join(sorted(abstract))
            raise PluginError(f"{hook}: {value.__qualname__} lacks {missing}")
        if "name" not in dir(value):
            raise PluginError(f"{hook}: {value.__qualname__} has no name")
        return Offer(kind, value.name, value.summary(), source, value)
    if kind == "template" and hasattr(value, "read_text") and str(value.name).endswith(".yaml"):
        first = value.read_text(encoding="utf-8").partition("\n")[0]
        summary = first.removeprefix("#").strip() if first.startswith("#") else ""
        return Offer(kind, value.name.removesuffix(".yaml"), summary, source, value)
    wanted = " or ".join(base.__name__ for base in bases)
    raise PluginError(f"{hook} yields {value!r}, which is no {wanted} class")


@dataclass(frozen=True, slots=True)
class Registry:
    """Names to what plugins offer, and the status of every plugin."""

    plugins: tuple[Loaded, ...]
    _by_name: dict[tuple[Kind, str], list[Offer]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for plugin in self.plugins:
            for offer in plugin.offers:
                self._by_name.setdefault((offer.kind, offer.name), []).append(offer)

    @property
    def failed(self) -> list[Loaded]:
        """The plugins that did not load."""
        return [plugin for plugin in self.plugins if plugin.reason is not None]

    def offers(self, kind: Kind | None = None) -> list[Offer]:
        """Return everything on offer, of one kind or of all."""
        return [o for p in self.plugins for o in p.offers if kind is None or o.kind == kind]

    def names(self, kind: Kind) -> list[str]:
        """Return the names of one kind, sorted."""
        return sorted({name for k, name in self._by_name if k == kind})

    def clashes(self) -> list[list[Offer]]:
        """Return the offers of each name that several plugins claim, in one kind."""
        return [offers for offers in self._by_name.values() if len(offers) > 1]

    def find(self, kind: Kind, name: str) -> Offer:
        """Return what is registered under `name`, or under `distribution/name`.

        Raise UnknownName with a suggestion, or NameClash where the choice is not clear. A bundled
        plugin keeps its bare name, so that nobody can break it.
        """
        owner, slash, bare = name.rpartition("/")
        offers = self._by_name.get((kind, bare), [])
        if slash:
            offers = [offer for offer in offers if offer.source.distribution == owner]
        ours = [offer for offer in offers if offer.source.distribution == OURS]
        if len(offers) == 1 or ours:
            return (ours or offers)[0]
        if offers:
            text = f"{_KIND_TEXT[kind]} '{bare}' is offered by "
            choices = sorted({f"'{offer.source.distribution}/{bare}'" for offer in offers})
            if len(choices) == 1:  # two modules of one distribution: there is nothing to choose
                raise NameClash(f"{text}two plugins of '{offers[0].source.owner}'")
            owners = " and ".join(f"'{offer.source.owner}'" for offer in offers)
            raise NameClash(text + owners, hint=f"write {' or '.join(choices)}")
        raise UnknownName(
            f"unknown {_KIND_TEXT[kind]} '{name}'{self._suspects()}", hint=self._hint(kind, name)
        )

    def _suspects(self) -> str:
        named = [
            f"; plugin '{plugin.source.owner}' failed to load: {plugin.reason}"
            for plugin in self.failed[:SUSPECTS]
        ]
        more = len(self.failed) - len(named)
        return "".join(named) + (f"; and {more} more failed" if more else "")

    def _hint(self, kind: Kind, name: str) -> str:
        near = did_you_mean(name.rpartition("/")[2], self.names(kind))
        if self.failed:
            return " ".join(filter(None, (near, "see gptkit plugins list")))
        return near or f"there are: {', '.join(self.names(kind))}"


_KIND_TEXT: dict[Kind, str] = {
    "tokenizer": "tokenizer",
    "sampler": "sampler",
    "stopping": "stopping criterion",
    "template": "template",
    "drafter": "drafter",
    "strategy": "strategy",
    "command": "command",
}


def index(loaded: Iterable[Loaded]) -> Registry:
    """Build the registry; a name that two plugins claim is an error when it is used, not here."""
    return Registry(tuple(loaded))


def registry() -> Registry:
    """Discover, load and index what is installed: what every command starts with."""
    return index(load(discover()))
