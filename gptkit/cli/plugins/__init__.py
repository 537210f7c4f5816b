"""`gptkit plugins`: what is installed, and what an author of plugins needs; a command a file."""

from __future__ import annotations

import typer

from gptkit.cli.plugins.doctor import doctor as _doctor
from gptkit.cli.plugins.examination import test as _test
from gptkit.cli.plugins.listing import list_
from gptkit.cli.plugins.new import new as _new
from gptkit.cli.plugins.page import show

app = typer.Typer(help="What is installed, and how to write your own.", no_args_is_help=True)
app.command("list")(list_)
app.command("show")(show)
app.command("new")(_new)
app.command("test")(_test)
app.command("doctor")(_doctor)
