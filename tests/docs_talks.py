"""The talks that the pages show, driven anew in a real terminal with the model that ships.

A talk stands between `<!-- talk: NAME -->` and `<!-- end -->`; `python -m tests.docs_talks` writes
them all anew, or those of the names it is given, and a slow test compares them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptkit.chat.store import Store
from tests.cli.screen import Terminal, environment
from tests.docs_blocks import DOCS

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGES = tuple(DOCS / f"{name}.md" for name in ("chat", "probs", "history"))
BLOCK = re.compile(r"(<!-- talk: ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
COLUMNS, ROWS = 84, 200
WIDE = 200
"""What the shell shows is not broken at the edge."""
HOME = "/home/ann"
"""What the pages call the home folder, as long as its name really is, so that lines wrap alike."""
MOVING = re.compile(r"\b\d{4}-\d\d-\d\d \d\d:\d\d\b|\b[a-z0-9]{8}\b")
"""Times, and what may be the id of a conversation: they differ each time."""

FOREIGN = ("GPTKIT_", "XDG_")
"""Variables of the user who makes the pages, which might change them."""
GREETING = ("mini, context 512 tokens.", "sampling as mini recommends: ")
"""What each chat begins with; the pages show it once."""
FILES = {
    "notes.txt": "What is the difference between top-k and top-p?\n",
    "stories.txt": "Tell me a story.\n" * 16,
    "slow.py": """\
import time
from gptkit.plugin_api import Sampler, hookimpl, param

class Slow(Sampler):
    \"\"\"Wait before each token.\"\"\"
    name = "slow"
    s = param(0.2, ge=0, help="seconds to wait")
    phase = "scale"
    def apply(self, logits, p, rows):
        time.sleep(float(p.s.max()))
        return logits

@hookimpl
def gptkit_samplers():
    yield Slow
""",
}
"""What lies in the home folder, besides the examples of the page on plugins."""

UP, RIGHT = "\x1b[A", "\x1b[C"

Step = str | tuple[str, ...]
TALKS: dict[str, tuple[Step, ...]] = {
    # chat.md
    "first": (
        "$ gptkit chat --seed 1",
        "Hello!",
        "What is a token?",
        "/set top_k 20",
        "Tell me a joke.",
    ),
    "stopped": (
        "$ GPTKIT_PLUGINS=slow.py gptkit chat --seed 3 -s slow -s temperature=0.7 -s top_p=0.9",
        ("Tell me a story.\r", "A young fox", "\x03", "[stopped]"),
        "/set slow 0",
        "/continue",
        "/tree",
    ),
    "long": (
        "$ gptkit chat --seed 1",
        "/multi",
        "What is\rtemperature?\r/end",
        "/file notes.txt",
        "//tree",
    ),
    "back": (
        "$ gptkit chat --seed 3",
        "Tell me a joke.",
        "/retry 3",
        "/branch",
        "/branch 2",
        "Another one!",
        "/undo",
        "What is a token?",
        "/tree",
        "/goto 5",
    ),
    "edit": (
        "$ EDITOR='sed -i s/joke/story/' gptkit chat --seed 3",
        "Tell me a joke.",
        "/edit",
        "/tree",
    ),
    "edit-answer": (
        "$ EDITOR=\"sed -i 's/ makes.*/ is a number that/'\" gptkit chat --seed 3",
        "What is temperature?",
        "/edit 2",
        "/continue",
    ),
    "set": (
        "$ gptkit chat --seed 1",
        "/set temperature 0.9",
        "/set top_p off",
        "/set min_p 0.05",
        "/set penalties repeat=1.1 window=64",
        "/set min_p 5",
        "/chain min_p before temperature",
    ),
    "preset": ("$ gptkit chat --seed 1", "/preset", "/preset nanogpt", "/set top_k 40", "/show"),
    "stops": (
        "$ gptkit chat --seed 3",
        "/max 12",
        "Tell me a story.",
        "/max 100",
        "/continue",
        "/stop One",
        "/retry",
        "/stop off",
        "/set sentences 2",
        "/retry",
    ),
    "seed": ("$ gptkit chat --seed 3", "/seed", "Tell me a joke.", "/seed 12", "/retry"),
    "template": (
        "$ gptkit chat --seed 1",
        "Hello!",
        "/system You are polite.",
        "/prompt",
        "/template dialogue",
        "/template show",
    ),
    "model": ("$ gptkit chat --seed 1", "/model", "/model gpt2", "/model mini"),
    "compare": (
        "$ gptkit chat --seed 1",
        "Tell me a joke.",
        "/compare temperature=0.2 temperature=1.2+top_k=50",
        "/tree",
    ),
    "save": (
        "$ gptkit chat --seed 1 --system 'You are polite.'",
        "Hello!",
        "/set top_k 20",
        "/save talk.yaml",
        "/save hello.jsonl",
        "$ cat talk.yaml",
        "$ cat hello.jsonl",
    ),
    "copy": ("$ gptkit chat --seed 1", "/markdown on", "What is top-p?", "/copy"),
    "help": ("$ gptkit chat --seed 1", "/help compare", "/quit"),
    "plugin": (
        "$ GPTKIT_PLUGINS=count.py gptkit chat --seed 1",
        "/help count",
        "Hello!",
        "/count",
        "/count ask",
    ),
    "overflow": (
        "$ gptkit chat --seed 1 2>&1 < stories.txt | grep 'the .* oldest'",
        "$ gptkit chat --seed 1 --on-overflow slide 2>&1 < stories.txt | grep 'the .* oldest'",
        "$ gptkit chat --seed 1 --on-overflow error 2>&1 < stories.txt | tail -n 2",
    ),
    "pipe": (
        "$ printf 'Hello!\\nWhat is temperature?\\n' | gptkit chat --seed 1 2>/dev/null",
        "$ printf 'Tell me a joke.\\n/retry\\n/tree\\n' | gptkit chat --seed 3 2>/dev/null",
    ),
    # probs.md
    "picked": (
        "$ gptkit chat --seed 3",
        "Tell me a joke.",
        ("/probs\r", "q leaves", f"{RIGHT}{UP}", "78.1%", "\r"),
        "/tree",
    ),
    "probs-pipe": ("$ printf 'What is a token?\\n/probs\\n' | gptkit chat --seed 3 2>/dev/null",),
    "trace": (
        "$ gptkit chat --seed 3 -s mirostat=2",
        "Tell me a joke.",
        "/trace on",
        "/retry",
        "/trace off",
    ),
    # history.md
    "history": (
        "$ gptkit chat --seed 1",
        "Hello!",
        "What is a token?",
        "/retry",
        "$ gptkit chat --seed 2",
        "Tell me a joke.",
        "$ gptkit history list",
        "$ gptkit history show {0} --tree",
        "$ gptkit history search joke",
        "$ gptkit chat --id {0}",
        "/undo",
    ),
    "export": (
        "$ gptkit chat --seed 1",
        "Hello!",
        "$ gptkit history export {0} --output talk.md",
        "$ cat talk.md",
        "$ gptkit history export {0} --json",
        "$ gptkit history delete {0} --yes",
        "$ gptkit history list",
    ),
    "continued": (
        "$ gptkit chat --seed 1",
        "Hello!",
        "$ gptkit chat -c",
        "What is a token?",
        "/reset",
        "Tell me a joke.",
        "$ gptkit history list",
    ),
    "not-kept": (
        "$ gptkit chat --no-history --seed 1",
        "Hello!",
        "$ gptkit history list",
        "$ gptkit chat -c",
    ),
}
"""What is typed. `$ ` begins a line for the shell, in which {0} is the id of the first conversation
of the talk; what follows it is typed into the chat that it began. Of several texts each odd one is
keys that are pressed, each even one what is then waited for."""


def replayed(name: str) -> str:
    """Return a talk as the terminal showed it, in a fence."""
    lines: list[str] = []
    with home(is_new=name == "first") as folder:
        for command, *typed in _runs(TALKS[name]):
            if "{0}" in command:
                command = command.replace("{0}", _ids(folder)[0])
            terminal = start(command, folder, columns=COLUMNS if typed else WIDE)
            if typed:
                wait_for_start(terminal)
                for step in typed:
                    type_line(terminal, step) if isinstance(step, str) else press(terminal, *step)
                terminal.type("\x04")
            terminal.wait_for_exit(timeout_s=60)
            shown = terminal.text().splitlines()
            if name != "first":
                shown = [line for line in shown if not line.startswith(GREETING)]
            lines += [f"$ {command}", *(shown[:-1] if shown[-1:] == [">"] else shown)]
    while not lines[-1]:
        lines.pop()
    return "```console\n" + "\n".join(lines).replace(str(folder), HOME) + "\n```\n"


def _runs(steps: tuple[Step, ...]) -> list[list[Any]]:
    """Return each command of the shell with what is typed into it."""
    runs: list[list[Any]] = []
    for step in steps:
        if isinstance(step, str) and step.startswith("$ "):
            runs.append([step[2:]])
        else:
            runs[-1].append(step)
    return runs


def start(
    command: str, folder: Path, *, rows: int = ROWS, columns: int = COLUMNS, **more: str
) -> Terminal:
    """Run a line of the shell in the home folder of a user."""
    env = {k: v for k, v in environment().items() if not k.startswith(FOREIGN)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return Terminal(
        ["env", "-C", str(folder), "bash", "-c", command],
        env={**env, "HOME": str(folder), "PATH": path, **more},
        rows=rows,
        columns=columns,
    )


def wait_for_start(terminal: Terminal) -> None:
    """Wait until the model is there."""
    terminal.wait("/help lists the commands")
    terminal.wait_for_prompt()


def type_line(terminal: Terminal, line: str) -> None:
    """Type a line, and wait until it is answered."""
    terminal.type(line)
    while terminal.screen.cursor.x == 2:  # it is not on the screen yet
        terminal.wait()
    terminal.type("\r")
    terminal.wait_for_prompt(timeout_s=60)


def press(terminal: Terminal, *steps: str) -> None:
    """Press keys and wait for what comes of them, by turns; then wait for the prompt."""
    for i, step in enumerate(steps):
        if i % 2:
            terminal.wait(step)
        else:
            if step == "\x03":
                time.sleep(0.1)  # while a token is on its way, not between two
            terminal.type(step)
    terminal.wait_for_prompt(timeout_s=60)


def made_anew(text: str, names: frozenset[str]) -> str:
    """Return a page with the talks of these names as they go now, or with all of them."""

    def anew(found: re.Match[str]) -> str:
        if names and found[2] not in names:
            return found[0]
        return found[1] + replayed(found[2]) + found[4]

    return BLOCK.sub(anew, text)


def without_moving(text: str) -> str:
    """Return a talk with what differs each time taken out."""
    return MOVING.sub("…", text)


@contextlib.contextmanager
def home(*, is_new: bool = False) -> Iterator[Path]:
    """Yield a home folder with files; unless it is new, with a history in which nothing is."""
    folder = Path(tempfile.gettempdir(), f"h{os.getpid() % 1000:03d}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    examples = re.findall(
        r'^```\w+ title="([^"]+)"\n(.*?)^```', (DOCS / "plugins.md").read_text(), re.M | re.S
    )
    for name, text in (*FILES.items(), *examples):
        (folder / name).write_text(text)
    if not is_new:
        Store.open(_history(folder)).close()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _history(folder: Path) -> Path:
    return folder / ".config" / "gptkit" / "history.db"


def _ids(folder: Path) -> list[str]:
    with contextlib.closing(Store.open(_history(folder))) as store:
        found = sorted(store.conversations(100), key=lambda one: one.created_at)
    return [one.id for one in found]


if __name__ == "__main__":
    chosen = frozenset(sys.argv[1:])
    for page in PAGES:
        old = page.read_text(encoding="utf-8")
        new = made_anew(old, chosen)
        if new != old:
            page.write_text(new, encoding="utf-8")
            print(page.name)
