"""Plugins and what they offer as records, for `--json`, and how each kind is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptkit.plugin_api import Param
    from gptkit.plugin_host import Kind, Loaded, Offer

USES: dict[Kind, str] = {
    "sampler": "-s {}",
    "stopping": "--stop-when {}",
    "drafter": "--speculate {}",
    "strategy": "--strategy {}",
    "tokenizer": "--tokenizer {}",
    "template": "template: {}",
    "command": "/{}",
}
"""How users name a plugin of each kind, in the order in which kinds are listed."""


def plugin_record(plugin: Loaded) -> dict[str, Any]:
    """Return what became of a plugin and all that it offers."""
    return {
        "plugin": plugin.source.name,
        "distribution": plugin.source.distribution,
        "version": plugin.source.version,
        "status": "failed" if plugin.reason else "ok",
        "reason": plugin.reason,
        "import_s": round(plugin.import_s, 4),
        "offers": [offer_record(offer) for offer in plugin.offers],
    }


def offer_record(offer: Offer) -> dict[str, Any]:
    """Return one thing on offer with its parameters."""
    params = {
        key: {
            "type": type_text(p, of="{}[]"),
            "default": p.show(p.default),
            "range": p.range_text,
            "has_off": p.off is not None,
            "help": p.help,
        }
        for key, p in params_of(offer).items()
    }
    phase = getattr(offer.value, "phase", None)
    return {
        "kind": offer.kind,
        "name": offer.name,
        "summary": offer.summary,
        "from": offer.source.owner,
        **({"phase": phase} if phase else {}),
        "params": params,
    }


def params_of(offer: Offer) -> dict[str, Param]:
    """Return the declared parameters; a YAML file has none."""
    return dict(getattr(offer.value, "params", {}))


def type_text(declared: Param, *, of: str) -> str:
    """Return the type of a parameter; `of` says how that of a list is written."""
    return of.format(declared.items.__name__) if declared.items else declared.kind.__name__
