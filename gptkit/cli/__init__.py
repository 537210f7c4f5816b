"""The command line: parse, call one function, show what it yields.

Each command is a function in a module of its own, which imports what it needs when it runs, so
that `--help` and listings answer without torch. There is one boundary, `main`: a GptkitError is
one line and a hint, anything else is a bug.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from gptkit import __version__
from gptkit.cli import (
    chat,
    generate,
    history,
    models,
    plugins,
    report,
    run,
    sampler,
    tokenize,
    train,
)
from gptkit.cli.options import say
from gptkit.errors import GptkitError, Terminated

app = typer.Typer(
    name="gptkit",
    help="Load or train a GPT, talk to it, and change how it speaks with plugins.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command()(chat.chat)
app.command()(generate.generate)
app.command()(run.run)
app.command()(report.report)
app.command()(train.train)
app.command()(tokenize.tokenize)
app.add_typer(plugins.app, name="plugins")
app.add_typer(models.app, name="models")
app.add_typer(history.app, name="history")
app.add_typer(sampler.app, name="sampler")

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _version(asked: bool) -> None:
    if asked:
        print(f"gptkit {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return its exit code; `argv` is without the program's name."""
    signal.signal(signal.SIGTERM, _terminate)
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    interrupt, before = _Interrupt(), signal.getsignal(signal.SIGINT)
    try:
        if before != signal.SIG_IGN:
            signal.signal(signal.SIGINT, interrupt)
        code = app(args=argv, prog_name="gptkit", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except GptkitError as error:
        return _fail(str(error), error.hint, error.exit_code, error)
    except TyperException as error:
        return _misused(error, sys.argv[1:] if argv is None else argv)
    except (KeyboardInterrupt, typer.Abort):  # typer itself returns 130 for most of them
        return 130
    except (BrokenPipeError, SystemExit) as error:
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise  # else it is typer's way of saying that the pipe broke
        # The reader of our output has gone; nothing more can be said on it, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError as error:
        return _fail("out of memory", "try a smaller model, batch or --dtype", 6, error)
    except OSError as error:
        what = f"cannot use {error.filename}" if error.filename else "cannot write output"
        hint = "free some space there, or write elsewhere" if error.errno in _FULL else None
        return _fail(f"{what}: {error.strerror or error}", hint, 6, error)
    except Exception as error:  # whatever arrives here is a bug of ours
        if interrupt.came:  # or of a library that took the KeyboardInterrupt for itself
            return 130
        text = f"internal error: {type(error).__name__}: {error}"
        return _fail(text, "GPTKIT_DEBUG=1 shows the traceback; please report it", 1, error)
    finally:
        signal.signal(signal.SIGINT, before)


def _open_closed_streams() -> None:
    """Give what the caller closed (`>&-`) the null device, or the next file would be in its place.

    Python has None for such a stream.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))


def _misused(error: TyperException, argv: list[str]) -> int:
    """Say what is wrong with a command line; one that asks for nothing gets the help."""
    text = error.format_message()
    if text.startswith("Usage:"):
        print(text, file=sys.stderr)
        return 2
    return _fail(text, f"see {_command_path(argv)} --help", 2, error)


def _command_path(argv: list[str]) -> str:
    """Return the command that a line is for, as far as it names one."""
    path, command = ["gptkit"], typer.main.get_command(app)
    for word in argv:
        if word not in (known := getattr(command, "commands", {})):
            break
        path, command = [*path, word], known[word]
    return " ".join(path)


def _fail(text: str, hint: str | None, code: int, error: BaseException) -> int:
    if os.environ.get("GPTKIT_DEBUG") == "1":
        raise error
    say(f"gptkit: error: {text}")
    if hint:
        say(f"  hint: {hint}")
    return code


class _Interrupt:
    """Raises KeyboardInterrupt, as Python's own handler does, and remembers it."""

    came = False

    def __call__(self, signum: int, frame: object) -> None:
        self.came = True
        raise KeyboardInterrupt


def _terminate(signum: int, frame: object) -> None:
    raise Terminated
