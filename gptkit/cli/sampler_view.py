"""What `gptkit sampler` shows, as tables that fit 80 columns, and as records for programs."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

from gptkit.cli.tokenize import piece
from gptkit.text.safe import safe, safe_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from gptkit.decoding.comparison import Figures, Walk
    from gptkit.decoding.inspection import Inspection, Standing
    from gptkit.decoding.presets import Preset
    from gptkit.decoding.request import Item
    from gptkit.plugin_api import Tokenizer

STAGE_WIDTH = 24
NAME_WIDTH = 16
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


def _bits(nats: float) -> str:
    return f"{nats / math.log(2):.2f} b"


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
            view.stage.brief.replace("=", " ", 1) if view.stage else "model",
            kept,
            _p(found.removed_mass) if found.best_removed is not None else "-",
            _bits(found.entropy),
            f"#{found.rank_after:,} {_p(found.p_after)}" if found.rank_after else "removed",
            end,
        )
        table.add_row(*(Text(safe_line(cell)) for cell in cells))
        before = found.survivors
    return table


def _won(tokenizer: Tokenizer, one: Inspection) -> str:
    """Say how the token won the draw."""
    draw = one.draw
    if draw.margin is not None and draw.runner_up is not None:
        noise = ", noise included" if draw.picker.sampler.name == "sample" else ""
        rival = token_text(tokenizer, draw.runner_up)
        said = f"won by {draw.margin:.2f} nats over {rival} ({_p(draw.runner_up_p)}){noise}"
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
                "entropy_nats": view.trace.entropy,
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


# Chains side by side --------------------------------------------------------------------------


def print_comparison(
    model: str, seed: int, walks: Sequence[Walk], figures: Sequence[Figures]
) -> None:
    """Print one table, a column for each chain; as many columns as the screen has room for."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    rows = [_column(one) for one in figures]
    at = 0
    while at < len(figures):
        n = _n_fitting(console, figures[at:])
        console.print(_comparison_table(figures[at : at + n], rows[at : at + n]))
        console.print()
        at += n
    for one in figures:
        chain = " ".join(stage.brief for stage in one.chain)
        console.print(Text(safe_line(f"{one.name}: {chain}"), style="dim"))
    said = f"{_n_rows(walks):,} rows, {len(walks)} prompts, model {model}, seed {seed}"
    console.print(Text(f"{said}; without a chain the entropy is {_bits(_raw_entropy(walks))}"))


def _n_fitting(console: Console, figures: Sequence[Figures]) -> int:
    width, n = max(map(len, _column(figures[0]))), 0
    for one in figures:
        cells = (one.name[:NAME_WIDTH], *_column(one).values())
        width += 2 + max(map(len, cells))
        if width > console.width:
            break
        n += 1
    return max(1, n)


def _comparison_table(figures: Sequence[Figures], rows: Sequence[dict[str, str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("", box=None, pad_edge=False)
    for one in figures:
        table.add_column(Text(safe_line(one.name)), justify="right", max_width=NAME_WIDTH)
    refused = any(one.n_failed for one in figures)
    for label in rows[0]:
        if label != "rows refused" or refused:
            table.add_row(label, *(row[label] for row in rows))
    return table


def _column(one: Figures) -> dict[str, str]:
    """Return what a chain came to, by what each figure is called."""

    def mean(values: Sequence[float]) -> float:
        return statistics.fmean(values) if values else math.nan

    median = statistics.median(one.survivors) if one.survivors else math.nan
    return {
        "tokens left, mean": f"{mean(one.survivors):,.1f}",
        "tokens left, median": f"{median:,.0f}",
        "entropy": _bits(mean(one.entropy)),
        "mass removed": f"{100 * mean(one.removed):.1f} %",
        "best token kept": f"{100 * one.agreement:.1f} %",
        "distinct-1": f"{one.distinct(1):.3f}",
        "distinct-2": f"{one.distinct(2):.3f}",
        "distinct-3": f"{one.distinct(3):.3f}",
        "repetition (4-grams)": f"{one.repetition():.3f}",
        **{f"ms a step, {n} row{'s' * (n > 1)}": f"{ms:.2f}" for n, ms in one.cost_ms.items()},
        "rows refused": f"{one.n_failed:,}",
    }


def _n_rows(walks: Sequence[Walk]) -> int:
    return sum(len(walk.rows) for walk in walks)


def _raw_entropy(walks: Sequence[Walk]) -> float:
    """Return the mean entropy of the recorded rows, in nats."""
    return statistics.fmean(value for walk in walks for value in walk.entropy())


def comparison_record(
    model: str, seed: int, walks: Sequence[Walk], figures: Sequence[Figures]
) -> dict[str, Any]:
    """Return what `print_comparison` prints, for programs; entropies in nats."""

    def mean(values: Sequence[float]) -> float | None:
        return statistics.fmean(values) if values else None

    return {
        "model": model,
        "seed": seed,
        "prompts": len(walks),
        "rows": _n_rows(walks),
        "model_entropy_nats": _raw_entropy(walks),
        "chains": [
            {
                "name": one.name,
                "chain": [str(stage) for stage in one.chain],
                "survivors": {
                    "mean": mean(one.survivors),
                    "median": statistics.median(one.survivors) if one.survivors else None,
                },
                "entropy_nats": mean(one.entropy),
                "removed_mass": mean(one.removed),
                "argmax_agreement": one.agreement if one.survivors else None,
                "rows_refused": one.n_failed,
                "distinct": {str(n): one.distinct(n) for n in (1, 2, 3)},
                "seq_rep_4": one.repetition(),
                "ms_per_step": {str(n): round(ms, 4) for n, ms in one.cost_ms.items()},
                "tokens": sum(map(len, one.texts)),
            }
            for one in figures
        ],
    }


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
