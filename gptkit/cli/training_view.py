"""Training on a screen: a bar and lines in a terminal, plain lines in a pipe, or JSON lines."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from gptkit.text.safe import safe
from gptkit.training import events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Show = Callable[[events.TrainingEvent], None]

SECONDS_BETWEEN_LINES = 10
_BARS = "▁▂▃▄▅▆▇█"


@contextlib.contextmanager
def view(*, as_json: bool) -> Iterator[Show]:
    """Yield the function that shows an event, as the standard output wants it."""
    if as_json:
        yield _print_json
    elif sys.stdout.isatty():
        with _bar() as show:
            yield show
    else:
        yield _Lines(lambda text: print(text, flush=True)).show


def _print_json(event: events.TrainingEvent) -> None:
    told = {"event": type(event).__name__.lower(), **dataclasses.asdict(event)}
    print(json.dumps(told, ensure_ascii=False, allow_nan=False), flush=True)


class _Lines:
    """Events as lines of text; progress only now and then."""

    def __init__(self, put: Callable[[str], None]) -> None:
        self.put = put
        self.measured: list[events.Evaluated] = []
        self.said_at = time.monotonic()

    def show(self, event: events.TrainingEvent) -> None:
        if isinstance(event, events.Progress):
            if time.monotonic() - self.said_at > SECONDS_BETWEEN_LINES:
                self.put(progress_line(event))
                self.said_at = time.monotonic()
        else:
            self.told(event)

    def told(self, event: events.TrainingEvent) -> None:
        """Put what is no progress."""
        if isinstance(event, events.Started):
            self.put(
                f"{event.n_params:,} parameters, vocabulary {event.vocab_size:,}, "
                f"{event.n_train_tokens:,} + {event.n_validation_tokens:,} tokens, {event.device}"
            )
            if event.step:
                self.put(f"going on after step {event.step:,}")
        elif isinstance(event, events.Evaluated):
            self.measured.append(event)
            self.put(
                f"step {event.step:,}: training loss {event.train_loss:.4f}, validation loss "
                f"{event.validation_loss:.4f}, {event.bits_per_byte:.3f} bits per byte"
            )
        elif isinstance(event, events.Sampled):
            for text in event.texts:
                self.put("\n".join(f"  | {safe(line)}" for line in text.split("\n")))
        elif isinstance(event, events.Finished):
            self.finished(event)

    def finished(self, event: events.Finished) -> None:
        """Put the course of the validation loss, and where the checkpoint is."""
        losses = [one.validation_loss for one in self.measured]
        if len(losses) > 1:
            course = f"{losses[0]:.2f} {sparkline(losses)} {losses[-1]:.2f}"
            self.put(f"validation loss {course}")
        self.put(f"saved {safe(event.path)} at step {event.step:,}")


def progress_line(event: events.Progress) -> str:
    """Return one step as a line."""
    return (
        f"step {event.step:,}: loss {event.loss:.4f}, learning rate {event.learning_rate:.2e}, "
        f"gradient {event.grad_norm:.2f}, {event.tokens_per_s:,.0f} tok/s, "
        f"{duration(event.eta_s)} left"
    )


def duration(seconds: float) -> str:
    """Return seconds as people say them: 42 s, 3:07 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}" if minutes else f"{rest} s"


def sparkline(values: list[float], width: int = 60) -> str:
    """Draw values as bars, the highest full; more than `width` are thinned."""
    n = min(width, len(values))
    shown = [values[round(i * (len(values) - 1) / max(1, n - 1))] for i in range(n)]
    low, span = min(shown), (max(shown) - min(shown)) or 1.0
    return "".join(_BARS[int((value - low) / span * (len(_BARS) - 1))] for value in shown)


@contextlib.contextmanager
def _bar() -> Iterator[Show]:
    """Yield a function that moves a bar and puts what is no progress above it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.text import Text

    console = Console(highlight=False)
    fields: dict[str, Any] = {"numbers": "", "left": ""}
    columns = (
        TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[numbers]}"),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("training", total=1, **fields)
        lines = _Lines(lambda text: console.print(Text(text), soft_wrap=True))

        def show(event: events.TrainingEvent) -> None:
            if isinstance(event, events.Progress):
                held = lines.measured[-1].validation_loss if lines.measured else None
                numbers = f"loss {event.loss:.3f}" + (f" (val {held:.3f})" if held else "")
                numbers += f"  {event.tokens_per_s:,.0f} tok/s"
                left = f"{duration(event.eta_s)} left"
                progress.update(task, completed=event.step, numbers=numbers, left=left)
            else:
                if isinstance(event, events.Started):
                    progress.update(task, total=event.max_steps, completed=event.step)
                lines.told(event)

        yield show
