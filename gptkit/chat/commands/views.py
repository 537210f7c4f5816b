"""Commands that show something."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptkit.chat.events import MarkdownWanted, Probed, Prompted, SessionEvent, Table
from gptkit.chat.settings import COMMAND_LINE, DEFAULT
from gptkit.decoding import chain_source
from gptkit.decoding.request import parse_stage, resolve_chain
from gptkit.errors import ConfigError, RequestError
from gptkit.plugin_api import OFF

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gptkit.chat.session import Session
    from gptkit.decoding.request import Chain

JOIN = "+"
"""Joins the stages of a chain that is written as one word."""


def show(session: Session, rest: str) -> Iterator[SessionEvent]:
    """Show what is in force, and where each value came from."""
    settings, model = session.settings, session.model
    rows = [("model", f"{model.name}, {model.backend} {model.dtype} on {model.device}", "")]
    rows.append(("template", session.chosen.name, session.chosen.source))
    rows.append(("system", settings.system or OFF, settings.system_from))
    for i, stage in enumerate(settings.chain):
        source = settings.chain_from.get(stage.label, DEFAULT)
        rows.append(("" if i else "chain", stage.brief, source))
    for name, choice in session.method.named.items():
        rows.append((name, str(choice), COMMAND_LINE))
    for i, (name, value) in enumerate(session.settings.stop_block().items()):
        shown = name if value is None else f"{name}={value}"
        rows.append(("" if i else "stop", shown, settings.stop_from.get(name, DEFAULT)))
    rows += [("", f"{stop.text!r}", "template") for stop in session.chosen.template.stops]
    rows.append(("seed", str(settings.seed), settings.seed_from))
    rows.append(("on_overflow", settings.on_overflow, settings.overflow_from))
    used, size = session.n_used, model.config.block_size
    rows.append(("context", f"{used:,} of {size:,} tokens used, {size - used:,} left", ""))
    path = session.conversation.path()
    left_out = f", {session.n_left_out} left out" if session.n_left_out else ""
    asked = sum(turn.role == "user" for turn in path)
    answers = len(path) - asked
    said = f"{asked} message{'s' * (asked != 1)}, {answers} answer{'s' * (answers != 1)}{left_out}"
    rows.append(("turns", said, ""))
    yield Table(tuple(rows))


def probs(session: Session, rest: str) -> Iterator[SessionEvent]:
    """Look at the last answer's tokens, what else might have been, and go on from there."""
    turn = session.conversation.cursor
    if turn is None or turn.role != "assistant":
        raise RequestError("there is no answer to look at")
    if not session.looks.get(turn.number):
        raise RequestError(
            "the probabilities of this answer are not known any more",
            hint="/retry writes another answer",
        )
    yield Probed(turn)


def compare(session: Session, rest: str) -> Iterator[SessionEvent]:
    """CHAIN CHAIN ...: Answer the last message by each of several chains.

    /compare hf nanogpt                        presets
    /compare mine.yaml hf                      a file with a chain
    /compare temperature=0.2 temperature=1.2   stages, those of one chain joined by +
    """
    words = rest.split()
    if len(words) < 2:
        raise ConfigError("/compare needs two chains", hint="/help compare shows how to write them")
    yield from session.compare([(word, _chain(session, word)) for word in words])


def _chain(session: Session, word: str) -> Chain:
    """Return the chain that a word means: stages joined by +, a preset, or a file."""
    registry = session.settings.registry
    if "=" in word or word in registry.names("sampler"):
        return resolve_chain([parse_stage(stage) for stage in word.split(JOIN)], registry)
    return chain_source.from_name(word, registry).chain


def prompt(session: Session, rest: str) -> Iterator[SessionEvent]:
    """Show the exact prompt that the next answer begins from, control tokens visible."""
    made = session.prompt()
    tokenizer = session.model.tokenizer
    names = {number: name for name, number in tokenizer.special.items()}
    pieces: list[tuple[str, bool]] = []
    text: list[int] = []
    for token in [*made.ids, None]:
        if token is None or token in names:
            if text:
                pieces.append((tokenizer.decode(text), False))
                text = []
            if token is not None:
                pieces.append((names[token], True))
        else:
            text.append(token)
    yield Prompted(tuple(pieces), len(made.ids), session.n_left_out + made.n_dropped)


def markdown(session: Session, rest: str) -> Iterator[SessionEvent]:
    """[on|off]: Show finished answers as Markdown where they are; alone, say whether."""
    if rest not in ("on", OFF, ""):
        raise ConfigError(f"/markdown: {rest!r} is neither on nor off")
    yield MarkdownWanted({"on": True, OFF: False}.get(rest))


COMMANDS = (show, probs, compare, prompt, markdown)
