"""Chats in a terminal with a model that says what a test tells it."""

import json
import sys
from pathlib import Path

import pytest

from gptkit.checkpoints.save import save_checkpoint
from gptkit.model.config import GPTConfig
from gptkit.model.gpt import GPT
from tests.cli.screen import Terminal, environment
from tests.cli.scripted_plugin import END, Bytes

HERE = Path(__file__).parent
GPTKIT = [sys.executable, "-m", "gptkit"]


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
        command = [*GPTKIT, "chat", "-m", str(model), "-s", f"scripted={delay_s}", *args]
        terminal = Terminal(command, env=env(*answers, **(env_more or {})), **size)
        started.append(terminal)
        if prompt:
            terminal.wait("/help lists the commands.")  # the model is there
            terminal.wait_for_prompt()
        return terminal

    yield begin
    for terminal in started:
        terminal.close()
