"""Chats in a terminal with a model that says what a test tells it."""

import json
import sys
import time
from pathlib import Path

import pytest

from gptkit.checkpoints.save import save_checkpoint
from gptkit.model.config import GPTConfig
from gptkit.model.gpt import GPT
from tests.cli.screen import PATIENCE_S, Terminal, environment
from tests.cli.scripted_plugin import END, Bytes

HERE = Path(__file__).parent
GPTKIT = [sys.executable, "-m", "gptkit"]
TORCH = ["--backend", "torch"]  # nothing is compiled then
PROMPT_BEGINS = b"\x1b[?2004h"
"""What prompt_toolkit sends at each prompt: paste comes in brackets from here on."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return a tiny checkpoint with random weights and the tokenizer of bytes."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    config = GPTConfig(vocab_size=260, block_size=512, n_layer=1, n_head=1, n_embd=8)
    save_checkpoint(
        folder,
        config=config,
        tensors=GPT(config).init_weights(1).state_dict(),
        tokenizer=Bytes(),
        bos_id=END,
        eos_ids=(END,),
        chat_template="chat",
    )
    return folder


@pytest.fixture
def env(tmp_path, monkeypatch):
    """Return a function: the environment in which the model says these answers."""

    def make(*answers, **more):
        script = tmp_path / f"script{len(list(tmp_path.glob('script*')))}.json"
        script.write_text(
            json.dumps([a if isinstance(a, str) else a.decode("latin-1") for a in answers])
        )
        plugin = str(HERE / "scripted_plugin.py")
        return environment(SCRIPT=str(script), GPTKIT_PLUGINS=plugin, **more)

    return make


@pytest.fixture
def start(model, env):
    """Return a function that starts a chat in a terminal; all are ended with the test."""
    started = []

    def begin(*answers, args=(), delay_s=0.0, env_more=None, prompt=True, **size):
        command = [*GPTKIT, "chat", "-m", str(model), "-s", f"scripted={delay_s}", *TORCH, *args]
        terminal = Terminal(command, env=env(*answers, **(env_more or {})), **size)
        started.append(terminal)
        if prompt:
            terminal.wait("/help lists the commands.")  # the model is there
            terminal.wait_for_prompt()
        return terminal

    yield begin
    for terminal in started:
        terminal.close()


class Talk(Terminal):
    """One chat for many tests, since each start takes more than a second."""

    def __init__(self, model, folder, *, args=(), **more):
        self.script = folder / "script.json"
        self.script.write_text("[]")
        size = {name: more.pop(name) for name in ("rows", "columns") if name in more}
        env = environment(
            SCRIPT=str(self.script),
            GPTKIT_PLUGINS=str(HERE / "scripted_plugin.py"),
            GPTKIT_HOME=str(folder / "home"),
            **more,
        )
        command = [*GPTKIT, "chat", "-m", str(model), "-s", "scripted", *TORCH, *args]
        super().__init__(command, env=env, **size)
        self.delay_s = 0.0

    def anew(self, *answers, delay_s=0.0, rows=24, columns=80):
        """Begin a conversation in which the model says these answers, on an empty screen."""
        self.type("\x03")  # what is left of an earlier test
        self.resize(rows, columns)
        text = [a if isinstance(a, bytes) else a.encode() for a in answers]
        self.script.write_text(json.dumps([one.decode("latin-1") for one in text]))
        self.ask("/reset", "a new conversation")
        if delay_s != self.delay_s:
            self.delay_s = delay_s
            self.ask(f"/set scripted {delay_s}")
        self.type("\x0c")
        while "/reset" in "\n".join(self.screen.display):
            self._read()
        self.wait_for_prompt()
        self.screen.history.top.clear()
        self.raw = b""

    def ask(self, line, *wanted):
        """Send a line, wait for what comes of it and for the next prompt; return the screen."""
        n = self.raw.count(PROMPT_BEGINS)
        self.type(f"{line}\r")
        self.wait(*wanted)
        until = time.monotonic() + PATIENCE_S
        while self.raw.count(PROMPT_BEGINS) == n and time.monotonic() < until:
            self._read()
        return self.wait_for_prompt()


@pytest.fixture(scope="module")
def open_talk(model, tmp_path_factory):
    """Return a function that starts a chat for many tests; all are ended with the module."""
    opened = []

    def begin(**more):
        talk = Talk(model, tmp_path_factory.mktemp("talk"), **more)
        opened.append(talk)
        talk.wait("/help lists")  # the model is there
        talk.wait_for_prompt()
        return talk

    yield begin
    for talk in opened:
        talk.close()
