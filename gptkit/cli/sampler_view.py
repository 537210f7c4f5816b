"""What `gptkit sampler trace|presets` show, in 80 columns, and as records for programs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from gptkit.cli.tokenize import piece
from gptkit.text.safe import safe, safe_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from gptkit.decoding.inspection import Inspection, Standing
    from gptkit.decoding.presets import Preset
    from gptkit.decoding.request import Item, Stage
    from gptkit.plugin_api import Tokenizer

STAGE_WIDTH = 24
_ESCAPES = str.maketrans({"\n": "\\n", "\t": "\\t", "\r": "\\r"})


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """Return a token as a reader sees it: quoted, or the name of a control token."""
    names = {number: name for name, number in tokenizer.special.items()}
    if token in names:
        return names[token]
    return f'"{safe(piece(tokenizer.token_bytes(token)).translate(_ESCAPES))}"'


def _p(p: float) -> str:
    """Write a probability short: .081, .0004, 3e-6."""
    if p in (0, 1):
        return f"{p:g}"
    if p >= 0.9995:
        return f"{p:.6f}".lstrip("0").rstrip("0") if p < 0.9999995 else "1"
    digits = 3 if p >= 0.0095 else 4
    if p >= 0.00005:
        return f"{p:.{digits}f}".lstrip("0")
    return f"{p:.0e}".replace("e-0", "e-")


def bits(nats: float) -> str:
    """Write an entropy in bits."""
    return f"{max(0.0, nats / math.log(2)):.2f} b"


def _standing(one: Standing) -> str:
    return f"#{one.rank:,} {_p(one.p)}" if one.rank is not None else "removed"


# One token ------------------------------------------------------------------------------------


def print_trace(
    tokenizer: Tokenizer, one: Inspection, asked: int | None, *, seed: int, first: bool
) -> None:
    """Print what each stage did to one token, and how that one won."""
    from rich.console import Console
    from rich.text import Text

    chosen = token_text(tokenizer, one.token_id)
    console = Console(highlight=False)
    if not first:
        console.print()
    seeded = f"   seed {seed}" if first else ""
    console.print(Text(f"token {one.n} {chosen}{seeded}   position {one.position}"))
    console.print(_trace_table(tokenizer, one, asked))
    console.print(Text(_won(tokenizer, one)))
    if off := [str(stage.label) for stage in one.off]:
        console.print(Text(f"off: {', '.join(off)}", style="dim"))
    if asked is not None:
        console.print(Text(_fate(tokenizer, one, asked)))


def _trace_table(tokenizer: Tokenizer, one: Inspection, asked: int | None) -> Table:
    from rich.table import Table
    from rich.text import Text

    heads = ["kept", "removed", "entropy", token_text(tokenizer, one.token_id)]
    table = Table(box=None, pad_edge=False)
    table.add_column("stage", max_width=STAGE_WIDTH, no_wrap=True)
    for head in heads[:3]:
        table.add_column(head, justify="right", no_wrap=True)
    last = "best removed" if asked is None else token_text(tokenizer, asked)
    for head in (heads[3], last):
        table.add_column(Text(head), no_wrap=True)
    before = None
    for view in one.stages:
        found = view.trace
        kept = "all" if found.survivors == before else f"{found.survivors:,}"
        if asked is not None and view.asked is not None:
            end = _standing(view.asked)
        elif found.best_removed is not None:
            end = f"{token_text(tokenizer, found.best_removed)} {_p(view.best_removed_p)}"
        else:
            end = ""
        cells = (
            _stage(view.stage) if view.stage else "model",
            kept,
            _p(found.removed_mass) if found.best_removed is not None else "-",
            bits(found.entropy),
            f"#{found.rank_after:,} {_p(found.p_after)}" if found.rank_after else "removed",
            end,
        )
        table.add_row(*(Text(safe_line(cell)) for cell in cells))
        before = found.survivors
    return table


def _stage(stage: Stage) -> str:
    """Write a stage for a narrow column: `top_k 40`, `dry multiplier=0.8,base=2`."""
    return f"{stage.label} {stage.brief.removeprefix(stage.label)[1:]}"


def _won(tokenizer: Tokenizer, one: Inspection) -> str:
    """Say how the token won the draw."""
    draw = one.draw
    if draw.margin is not None and draw.runner_up is not None:
        noise = ", noise included" if draw.picker.sampler.name == "sample" else ""
        rival = token_text(tokenizer, draw.runner_up)
        margin = f"{draw.margin:.2f}" if draw.margin >= 0.01 else _p(draw.margin)
        said = f"won by {margin} nats over {rival} ({_p(draw.runner_up_p)}){noise}"
    elif one.stages[-1].trace.survivors == 1:
        said = "the only token left"
    else:
        said = "by rules of its own"
    return f"{draw.picker.brief}: {token_text(tokenizer, one.token_id)} {said}"


def _fate(tokenizer: Tokenizer, one: Inspection, asked: int) -> str:
    """Say which stage removed the token that was asked about."""
    text = token_text(tokenizer, asked)
    gone = one.removed_by()
    if gone is None:
        return f"{text} was removed by no stage"
    if gone.stage is None:
        return f"{text} is not allowed by the model itself"
    before = one.stages[one.stages.index(gone) - 1].asked
    stood = f", where it came in as {_standing(before)}" if before is not None else ""
    return f"{text} was removed by {gone.stage.brief}{stood}"


def trace_record(tokenizer: Tokenizer, one: Inspection, asked: int | None) -> dict[str, Any]:
    """Return what `print_trace` prints, for programs; entropies in nats."""

    def token(id: int | None, p: float | None = None) -> dict[str, Any] | None:
        if id is None:
            return None
        record: dict[str, Any] = {"id": id, "text": piece(tokenizer.token_bytes(id))}
        return record if p is None else {**record, "p": p}

    def standing(rank: int | None, p: float) -> dict[str, Any]:
        return {"rank": rank, "p": p}

    gone = one.removed_by()
    record: dict[str, Any] = {
        "n": one.n,
        "position": one.position,
        "token": token(one.token_id),
        "stages": [
            {
                "stage": str(view.stage) if view.stage else "model",
                "survivors": view.trace.survivors,
                "removed_mass": view.trace.removed_mass,
                "entropy_nats": max(0.0, view.trace.entropy),
                "before": standing(view.trace.rank_before, view.trace.p_before),
                "after": standing(view.trace.rank_after, view.trace.p_after),
                "best_removed": token(view.trace.best_removed, view.best_removed_p),
                **({"asked": standing(view.asked.rank, view.asked.p)} if view.asked else {}),
            }
            for view in one.stages
        ],
        "off": [str(stage) for stage in one.off],
        "draw": {
            "picker": str(one.draw.picker),
            "margin_nats": one.draw.margin,
            "runner_up": token(one.draw.runner_up, one.draw.runner_up_p),
        },
        "finish_reason": one.finish_reason,
    }
    if asked is not None:
        stage = gone.stage if gone else None
        record["asked"] = {"token": token(asked), "removed_by": str(stage) if stage else None}
    return record


# Presets --------------------------------------------------------------------------------------


def print_presets(presets: Sequence[Preset]) -> None:
    """Print each preset: a chain that can be copied into a file, its source, and what differs."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for preset in presets:
        console.print(Text.assemble((preset.name, "bold"), f"  {preset.engine}"))
        console.print(Text("  chain:"))
        for item in preset.chain:
            _print_wrapped(console, _yaml(item), "    - ", "        ")
        console.print(Text("  source:"))
        _print_wrapped(console, preset.source, "    ", "    ")
        console.print(Text("  differs:"))
        for said in preset.deviations:
            _print_wrapped(console, said, "    - ", "      ")
        console.print()
    said = "The draws are our own: from the same probabilities another text may come."
    _print_wrapped(console, said, "", "")


def _print_wrapped(console: Console, text: str, first: str, others: str) -> None:
    """Print a paragraph with a hanging indentation."""
    import textwrap

    filled = textwrap.fill(
        text, console.width, initial_indent=first, subsequent_indent=others, break_on_hyphens=False
    )
    console.print(filled, markup=False)


def _yaml(item: Item) -> str:
    """Write a stage as it stands in a chain."""
    if isinstance(item, str):
        return item
    ((name, value),) = item.items()
    return f"{name}: {_flow(value)}"


def _flow(value: Any) -> str:
    """Write a value as YAML on one line."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_flow(one)}' for key, one in value.items())}}}"
    return str(value)


def preset_record(preset: Preset) -> dict[str, Any]:
    """Return a preset for programs."""
    return {
        "name": preset.name,
        "engine": preset.engine,
        "chain": list(preset.chain),
        "source": preset.source,
        "deviations": list(preset.deviations),
    }
