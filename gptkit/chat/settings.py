"""What is in force in a chat, and where each value came from. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gptkit import assembly
from gptkit.assembly import check_stops
from gptkit.config import parse_yaml
from gptkit.decoding.chain_source import from_preset
from gptkit.decoding.presets import PRESET_NAMES
from gptkit.decoding.request import (
    LIMITS,
    MAX_SEED,
    Item,
    parse_stage,
    random_seed,
    resolve_chain,
    resolve_stops,
    typed,
)
from gptkit.errors import ConfigError, UnknownName, did_you_mean
from gptkit.plugin_api import OFF, ChatTemplate, Param, param
from gptkit.text.prompting import CHAT_OVERFLOW

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gptkit.decoding.chain_source import ChainSource
    from gptkit.model.config import GPTConfig
    from gptkit.plugin_host import Registry

DEFAULT, MODEL, COMMAND_LINE, SET = "default", "model", "command line", "/set"

MAX_NEW_TOKENS = 256
OWN: dict[str, Param] = {
    "seed": param(0, ge=0, le=MAX_SEED, help="same seed and same words, same answers"),
    "preset": param("", choices=PRESET_NAMES, help="the whole chain of another engine"),
    "on_overflow": param(
        CHAT_OVERFLOW[0], choices=CHAT_OVERFLOW, help="when the talk outgrows the context"
    ),
}
"""What is neither a sampler nor a matter of stopping."""

ALIASES = {"stop": "strings"}
"""`--stop TEXT` on the command line is the criterion `strings`."""


@dataclass(frozen=True, slots=True)
class ChosenTemplate:
    """A chat template, its name, and who chose it."""

    template: ChatTemplate
    name: str
    source: str


@dataclass(frozen=True, slots=True)
class Setting:
    """One name that `/set` knows: what it stands at, which values it takes, what it is."""

    name: str
    value: str
    span: str
    summary: str


class ChatSettings:
    """Chain, stops, seed, system and overflow; each checked when it is set, all or nothing."""

    def __init__(
        self,
        registry: Registry,
        *,
        whole_chain: ChainSource | None = None,
        items: Sequence[Item] = (),
        shorthands: Mapping[str, str] | None = None,
        stop: Mapping[str, Any] | None = None,
        seed: int | None = None,
        system: str | None = None,
        on_overflow: str = CHAT_OVERFLOW[0],
    ) -> None:
        self.registry = registry
        self.config: GPTConfig | None = None
        base = whole_chain.chain if whole_chain else None
        self.chain = resolve_chain(items, registry, base=base, shorthands=shorthands)
        self.whole_chain = whole_chain
        self.names_chain = bool(whole_chain or items or shorthands)
        self.chain_from = self._sources(items, COMMAND_LINE)
        self.chain_from.update(dict.fromkeys(shorthands or (), COMMAND_LINE))
        self.stop: dict[str, Any] = dict(stop or {})
        self.stop_from = dict.fromkeys(self.stop, COMMAND_LINE)
        self.stops = resolve_stops(self.stop, registry, max_new_tokens=MAX_NEW_TOKENS)
        self.seed = random_seed() if seed is None else seed
        self.seed_from = "drawn" if seed is None else COMMAND_LINE
        self.system = system or None
        self.system_from = COMMAND_LINE if system else DEFAULT
        self.on_overflow = OWN["on_overflow"].check("--on-overflow", on_overflow)
        self.overflow_from = DEFAULT if on_overflow == CHAT_OVERFLOW[0] else COMMAND_LINE

    def fit(self, config: GPTConfig) -> None:
        """Hold max_new_tokens to the context of the model, whoever sets it from now on."""
        self.config = config
        if "max_new_tokens" in self.stop:
            check_stops(self.stops, config, "--max-new-tokens")
        else:
            self._use_stop(self.stop)

    def recommend(self, items: Sequence[Item]) -> None:
        """Take the chain that the model's author recommends, where the user named none."""
        if not self.names_chain:
            self.chain = resolve_chain(items, self.registry)
            self.chain_from = self._sources(items, MODEL)

    def _sources(self, items: Sequence[Item], source: str) -> dict[str, str]:
        """Return whence each stage is; the picker that joins by itself is a default."""
        names = [item if isinstance(item, str) else next(iter(item)) for item in items]
        named = {name.rpartition("/")[2] for name in names}
        joined = self.chain[-1].label if self.chain[-1].sampler.name not in named else None
        sources = {stage.label: source for stage in self.chain}
        if joined is not None:
            sources[joined] = DEFAULT
        if self.whole_chain is not None:
            kept = [stage.label for stage in self.chain if stage in self.whole_chain.chain]
            sources.update(dict.fromkeys(kept, self.whole_chain.name))
        return sources

    def set(self, line: str) -> str:
        """Take `NAME VALUE`, `NAME=VALUE` or `NAME:KEY=VALUE,...`; return what is now in force."""
        name, value = self._read(line)
        name = ALIASES.get(name, name)
        if name in OWN:
            return self._set_own(name, value)
        if name in LIMITS or name in self.registry.names("stopping"):
            return self._set_stop(name, value)
        return self._set_stage(name, value)

    def _read(self, line: str) -> tuple[str, Any]:
        """Return name and value; a value that opens like YAML is read as YAML."""
        head, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        item = parse_stage(head) if not rest else {head: typed(rest)}
        if isinstance(item, str):
            return item, None
        ((name, value),) = item.items()
        if isinstance(value, str) and value[:1] in ("[", "{", '"', "'"):
            return name, parse_yaml(value, f"/set {name}").data
        if rest and rest.partition("=")[0] in self._params(name):
            item = parse_stage(f"{name}:{','.join(rest.split())}")
            value = item[name] if isinstance(item, dict) else None
        return name, value

    def _params(self, name: str) -> Mapping[str, Param]:
        for kind in ("sampler", "stopping"):
            try:
                params: Mapping[str, Param] = self.registry.find(kind, name).value.params
            except UnknownName:
                continue
            return params
        return {}

    def _set_own(self, name: str, value: Any) -> str:
        if value is None:
            raise ConfigError(f"{name} needs a value", hint=f"write /set {name} VALUE")
        declared = OWN[name]
        text = isinstance(value, str)
        checked = declared.parse(name, str(value)) if text else declared.check(name, value)
        if name == "preset":
            return self._set_preset(checked)
        if name == "seed":
            self.seed, self.seed_from = checked, SET
        else:
            self.on_overflow, self.overflow_from = checked, SET
        return f"{name}={checked}"

    def _set_preset(self, name: str) -> str:
        """Take the chain of another engine instead of the one in force."""
        self.whole_chain = from_preset(name, self.registry)
        self.chain = self.whole_chain.chain
        self.chain_from = self._sources((), SET)
        return self.whole_chain.said_of(self.chain)

    def move(self, line: str) -> None:
        """Move a stage of the chain: `STAGE before|after STAGE`."""
        words = line.split()
        labels = [stage.label for stage in self.chain]
        if len(words) != 3 or words[1] not in ("before", "after"):
            raise ConfigError(
                "/chain moves a stage", hint="such as /chain top_p before temperature"
            )
        for word in (words[0], words[2]):
            if word not in labels:
                known = did_you_mean(word, labels) or f"it has: {', '.join(labels)}"
                raise UnknownName(f"the chain has no stage '{word}'", hint=known)
        moved = self.chain[labels.index(words[0])]
        rest = [stage for stage in self.chain if stage is not moved]
        at = [stage.label for stage in rest].index(words[2]) + (words[1] == "after")
        chain = (*rest[:at], moved, *rest[at:])
        self.chain = resolve_chain((), self.registry, base=chain)
        self.chain_from[moved.label] = SET

    def template(self, name: str) -> ChosenTemplate:
        """Return a chat template by name."""
        found = assembly.template(name, self.registry)
        if not isinstance(found, ChatTemplate):
            raise ConfigError(f"template '{name}' is no chat template", hint="such as dialogue")
        return ChosenTemplate(found, name, SET)

    def say_system(self, text: str) -> None:
        """Set the instruction that stands before the talk; an empty one removes it."""
        self.system = text or None
        self.system_from = SET

    def _set_stop(self, name: str, value: Any) -> str:
        block = dict(self.stop)
        if value == OFF and name not in LIMITS:
            block.pop(name, None)
        else:
            block[name] = value
        self._use_stop(block)
        if name not in block:
            self.stop_from.pop(name, None)
            return f"{name} off"
        self.stop_from[name] = SET
        said = f"{name}={self.stop_block()[name]}"
        if name == "ignore_eos":
            said += "; what the template stops at still ends an answer"
        return said

    def _use_stop(self, block: dict[str, Any]) -> None:
        """Check a `stop` block as a whole, then take it."""
        most = self.config.block_size if self.config else MAX_NEW_TOKENS
        stops = resolve_stops(block, self.registry, max_new_tokens=min(MAX_NEW_TOKENS, most))
        if self.config:
            check_stops(stops, self.config, "max_new_tokens")
        self.stop, self.stops = block, stops

    def stop_block(self) -> dict[str, Any]:
        """Return the `stop` block as YAML would have it: the length, and what was asked for."""
        out: dict[str, Any] = {"max_new_tokens": self.stops.max_new_tokens}
        for name in LIMITS:
            if name in self.stop:
                out[name] = getattr(self.stops, name)
        for asked in self.stops.criteria:
            values = {
                key: list(one) if isinstance(one, tuple) else one
                for key, one in asked.values.items()
                if one != asked.criterion.params[key].default
            }
            name = self._asked_name(asked.criterion)
            first = next(iter(asked.values), "")
            out[name] = values[first] if list(values) == [first] else values or None
        return out

    def _asked_name(self, criterion: type) -> str:
        """Return the name by which the user asked for a criterion: bare, or `dist/name`."""
        return next(
            name
            for name in self.stop
            if name not in LIMITS and self.registry.find("stopping", name).value is criterion
        )

    def _set_stage(self, name: str, value: Any) -> str:
        try:
            self.registry.find("sampler", name)
        except UnknownName as error:
            known = [setting.name for setting in self.listing()]
            hint = did_you_mean(name, known) or "/set alone lists what there is"
            if name == "system":
                hint = "write /system TEXT"
            elif self.registry.failed:
                hint = error.hint or hint
            said = str(error).replace("unknown sampler", "unknown setting or sampler", 1)
            raise UnknownName(said, hint=hint) from None
        item: Item = name if value is None else {name: value}
        chain = resolve_chain([item], self.registry, base=self.chain)
        changed = [stage for stage in chain if stage not in self.chain]
        self.chain = chain
        self.chain_from.update(dict.fromkeys((stage.label for stage in changed), SET))
        return " ".join(map(str, chain))

    def listing(self) -> Iterator[Setting]:
        """Yield every name that `/set` takes, with its value and range."""
        in_chain = {stage.sampler: stage for stage in self.chain}
        for offer in self.registry.offers("sampler"):
            stage = in_chain.get(offer.value)
            value = str(stage).removeprefix(f"{stage.label}=") if stage else "-"
            value = "on" if value == offer.name else value
            yield Setting(offer.name, value, _span(offer.value.params), offer.summary)
        block = self.stop_block()
        for name, declared in LIMITS.items():
            shown = declared.show(block.get(name, getattr(self.stops, name)))
            yield Setting(name, shown, declared.range_text, declared.help)
        for offer in self.registry.offers("stopping"):
            value = str(block[offer.name]) if offer.name in block else "-"
            yield Setting(offer.name, value, _span(offer.value.params), offer.summary)
        whole = self.whole_chain.name.rpartition(" ")[2] if self.whole_chain else "-"
        values = {"seed": self.seed, "preset": whole, "on_overflow": self.on_overflow}
        for name, declared in OWN.items():
            yield Setting(name, str(values[name]), declared.range_text, declared.help)


def _span(params: Mapping[str, Param]) -> str:
    """Say the range of the first parameter, and name the others."""
    if not params:
        return ""
    first, *others = params
    said = params[first].range_text
    return "; also ".join(filter(None, (said, ", ".join(others))))
