"""`gptkit plugins show NAME`: one plugin with parameters, ranges, place and company."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Annotated

import typer

from gptkit.cli.options import Json
from gptkit.cli.plugins.records import USES, offer_record, params_of, type_text
from gptkit.errors import GptkitError, UnknownName, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gptkit.plugin_api import Param
    from gptkit.plugin_host import Offer


def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What users type, as in the list.")],
    as_json: Json = False,
) -> None:
    """Show a sampler, criterion, drafter, strategy, tokenizer, template or command."""
    from gptkit.plugin_host import registry
    from gptkit.text.safe import safe

    found = registry()
    bare = name.rpartition("/")[2]
    kinds = sorted({offer.kind for offer in found.offers() if offer.name == bare})
    if not kinds:
        failed = "; ".join(f"plugin '{p.source.owner}' failed: {p.reason}" for p in found.failed)
        near = did_you_mean(name, [offer.name for offer in found.offers()])
        raise UnknownName(
            f"nothing is called '{name}'" + (f"; {failed}" if failed else ""),
            hint=near or "see gptkit plugins list",
        )
    offers = [found.find(kind, name) for kind in kinds]
    if as_json:
        print(json.dumps([offer_record(offer) for offer in offers], ensure_ascii=False))
        return
    for offer in offers:
        print(safe("\n".join(_page(offer))))


def _page(offer: Offer) -> Iterator[str]:
    yield f"{offer.name}  {offer.summary}  [{offer.kind}, {offer.source.owner}]"
    yield from _table(offer)
    if offer.kind == "sampler":
        cls = offer.value
        memory = {
            None: "stateless",
            "token": "remembers the tokens",
            "sample": "remembers the draws",
        }[cls.state_from]
        yield f"  phase {cls.phase}, rank {cls.rank}, {memory}"
    if company := _company(offer):
        yield f"  works with {company}"
    if not isinstance(offer.value, type):
        yield ""
        yield str(offer.value.read_text(encoding="utf-8")).rstrip()
    elif body := (inspect.getdoc(offer.value) or "").partition("\n")[2].strip():
        yield ""
        yield body


def _table(offer: Offer) -> Iterator[str]:
    """Yield a line for each parameter: type, range, default, help; how to set it behind the first.

    Whether a parameter can be switched off is said where it is not so by default.
    """
    use = "--template {}" if _is_chat(offer) else USES[offer.kind]
    rows = [
        (key, type_text(p, of="list of {}"), range_of(p), p.show(p.default), p.help)
        for key, p in params_of(offer).items()
    ]
    if not rows:
        yield f"  e.g. {use.format(offer.name)}"
        return
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for n, row in enumerate(rows):
        p = params_of(offer)[row[0]]
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)]
        line = f"  {'  '.join((*cells, row[4]))}"
        if p.off is not None and p.off != p.default:
            line += " (or off)"
        yield line + (f"    e.g. {use.format(f'{offer.name}=VALUE')}" if n == 0 else "")


def _is_chat(offer: Offer) -> bool:
    """Return whether it is a template of a chat, which no job has a use for."""
    from gptkit.plugin_api import ChatTemplate
    from gptkit.text.template import read_template

    if offer.kind != "template":
        return False
    if isinstance(offer.value, type):
        return issubclass(offer.value, ChatTemplate)
    try:
        return isinstance(read_template(offer.value, offer.name), ChatTemplate)
    except GptkitError:  # a broken file is shown too
        return False


def range_of(declared: Param) -> str:
    """Return the range as short as it can be said: `0..1`, `above 0`, `a, b`, or nothing."""
    if declared.choices or declared.ge is None or declared.le is None:
        return declared.range_text
    return f"{declared.ge:g}..{declared.le:,g}"


def _company(offer: Offer) -> str:
    """Return in which company a plugin works, by what the engine does with its kind."""
    if offer.kind == "sampler":
        cls = offer.value
        if cls.phase == "pick":
            return "speculation, constraints; beam and contrastive search draw nothing"
        if cls.state_from == "sample":
            return "speculation, constraints, cfg; not with beam and contrastive search"
        return "speculation, strategies, constraints"
    if offer.kind == "stopping":
        return "speculation, strategies, any chain"
    if offer.kind == "drafter":
        return "any chain, alone and in batches; not with a strategy"
    if offer.kind == "strategy":
        return "any chain, alone and in batches; not with speculation"
    return ""
