"""Examine a tokenizer: text to ids and back, whole or in pieces, written and read again."""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptkit.errors import GptkitError, RequestError
from gptkit.plugin_api import Tokenizer
from gptkit.testing import imports, texts, values
from gptkit.testing.report import Examination
from gptkit.text.stream import TextStream

if TYPE_CHECKING:
    from gptkit.testing.report import Report

N_TEXTS = 60
N_IDS = 20_000
"""Ids that are looked at one by one."""
VOCAB_SIZE = 700
"""What a tokenizer that learns may learn here."""
SPECIAL = ("<|user|>", "<|end|>")
LETTERS = ("a", " ", "\n", "\u00e9", "\u65e5", "\U0001f44d")
MEGABYTE = 1_000_000
MOST_S = 1.0
"""Seconds in which a tokenizer reads a megabyte of one letter."""
SUSPICIOUS = 30
"""How many times as long ten times the text may take, before a hundred times is not waited for."""
SPLIT = (
    "\U0001f469\u200d\U0001f469\u200d\U0001f467",
    "\u65e5\u672c\u8a9e",
    "\U0001f1ef\U0001f1f5",
    "e\u0301",
)
"""Characters of several bytes, which tokens may cut anywhere."""


def examine(plugin: type[Tokenizer] | Tokenizer, *, seed: int = 0) -> Report:
    """Examine a tokenizer, or one that its class makes: it is trained, or loaded without a path."""
    cls = plugin if isinstance(plugin, type) else type(plugin)
    exam = Examination(cls.name, "tokenizer", cls.summary(), imports.file_of(cls))
    imports.check(exam, cls)
    rng = random.Random(seed)
    if not isinstance(plugin, type):
        _examine_built(exam, plugin, rng)
    elif exam.check("T1", "the declaration is complete", values.check_declared, cls, "T1"):
        built: list[Tokenizer] = []
        if _learns(cls):
            exam.check("T9", "training keeps its word", _training, cls, rng, built)
        else:
            exam.check("T1", "it loads without a path", _loading, cls, built)
        if built:
            _examine_built(exam, built[0], rng)
        elif not exam.errors:
            exam.find("T1", "it needs a file, so only one that is built can be examined", "warning")
    return exam.report()


def _examine_built(exam: Examination, tokenizer: Tokenizer, rng: random.Random) -> None:
    if not exam.check("T4", "ids, control tokens and bytes agree", _ids, tokenizer, rng):
        return
    said: list[str] = []
    if not exam.check("T2", "text, ids, the same text", _round_trip, tokenizer, rng, said):
        return
    exam.check("T3", "token by token it is the same text", _streaming, tokenizer, said)
    exam.check("T5", "text is never a control token", _control, tokenizer, said)
    exam.check("T6", "what can't be said is refused in one way", _refusals, tokenizer)
    exam.check("T7", "written and read, it is the same", _saving, tokenizer, said)
    exam.check("T8", "1 MB of one letter in a second", _megabyte, tokenizer)


def _learns(cls: type[Tokenizer]) -> bool:
    return getattr(cls.train, "__func__", None) is not getattr(Tokenizer.train, "__func__", None)


# Building one ---------------------------------------------------------------------------------


def _loading(exam: Examination, cls: type[Tokenizer], built: list[Tokenizer]) -> None:
    try:
        built.append(cls.load(None))
    except GptkitError:
        return  # without a path it has nothing to load, or nothing that can be fetched now


def _training(
    exam: Examination, cls: type[Tokenizer], rng: random.Random, built: list[Tokenizer]
) -> None:
    """Train twice on the same texts: the same must come out, able to say them."""
    corpus = [texts.plain(rng, 60) + texts.nasty(rng, 30) for _ in range(8)] + list(SPLIT)
    tokenizer = cls.train(corpus, vocab_size=VOCAB_SIZE, special=SPECIAL)
    built.append(tokenizer)
    if tokenizer.vocab_size > VOCAB_SIZE:
        exam.find("T9", f"it learned {tokenizer.vocab_size} ids where {VOCAB_SIZE} were allowed")
    if set(SPECIAL) - set(tokenizer.special):
        exam.find("T9", f"control tokens {SPECIAL} were asked for, it has {tokenizer.special}")
    for text in corpus:
        if tokenizer.decode(tokenizer.encode_ordinary(text)) != text:
            exam.find("T9", f"it can't say a text that it was trained on: {text[:40]!r}...")
    again = cls.train(iter(corpus), vocab_size=VOCAB_SIZE, special=SPECIAL)
    if difference := _difference(tokenizer, again, corpus):
        exam.find("T9", f"trained again on the same texts it is another: {difference}")


# Ids and bytes --------------------------------------------------------------------------------


def _ids(exam: Examination, tokenizer: Tokenizer, rng: random.Random) -> None:
    size, special = tokenizer.vocab_size, dict(tokenizer.special)
    if type(size) is not int or size < 1:
        exam.find("T4", f"vocab_size is {size!r}, no whole number above 0")
        return
    for name, token_id in special.items():
        if type(token_id) is not int or not 0 <= token_id < size:
            exam.find("T4", f"control token {name!r} has the id {token_id!r}, not below {size:,}")
            return
    if len(set(special.values())) < len(special):
        exam.find("T4", "two control tokens have one id")
    ids = range(size) if size <= N_IDS else sorted(rng.sample(range(size), N_IDS))
    for token_id in (*ids, *special.values()):
        data = tokenizer.token_bytes(token_id)
        if type(data) is not bytes:
            exam.find("T4", f"token_bytes({token_id}) is {type(data).__name__}, no bytes")
        elif token_id in special.values() and data:
            exam.find("T4", f"a control token has no bytes; {token_id} has {data!r}")
    for _ in range(200):
        some = rng.choices(range(size), k=rng.randint(1, 12))
        whole = b"".join(map(tokenizer.token_bytes, some)).decode("utf-8", "replace")
        if tokenizer.decode(some) != whole:
            exam.find("T4", f"decode({some}) is not the text of their token_bytes")
    for token_id in (-1, size):
        try:
            tokenizer.token_bytes(token_id)
        except GptkitError:
            continue
        except Exception as error:
            said = f"raises {type(error).__name__}"
        else:
            said = "is taken for an id"
        exam.find("T4", f"token_bytes({token_id}) {said}; raise RequestError", "warning")


# Texts ----------------------------------------------------------------------------------------


def _round_trip(
    exam: Examination, tokenizer: Tokenizer, rng: random.Random, said: list[str]
) -> None:
    """Encode and decode texts, and note those that it can say; a closed vocabulary says its own."""
    own = _own_texts(tokenizer, rng)
    for text in ["", *texts.PIECES, *(texts.nasty(rng) for _ in range(N_TEXTS)), *own]:
        try:
            ids = tokenizer.encode_ordinary(text)
        except RequestError:
            continue
        if not isinstance(ids, list) or any(type(one) is not int for one in ids):
            exam.find("T2", f"encode_ordinary({text!r}) is no list of whole numbers: {ids!r}")
            return
        if wrong := [one for one in ids if not 0 <= one < tokenizer.vocab_size]:
            exam.find("T2", f"encode_ordinary({text!r}) gives {wrong[0]}, which is no id")
            return
        back = tokenizer.decode(ids)
        if back != text:
            exam.find("T2", f"{text!r} comes back as {back!r}")
        if tokenizer.encode_ordinary(text) != ids:
            exam.find("T2", f"{text!r} is encoded in two ways: it depends on what came before")
        said.append(text)
    if not any(said):
        exam.find("T2", "it can say none of our texts, and none of its own tokens", "warning")


def _own_texts(tokenizer: Tokenizer, rng: random.Random) -> list[str]:
    """Return texts made of its own tokens, the way to ask a closed vocabulary for something."""
    ordinary = sorted(set(range(tokenizer.vocab_size)) - set(tokenizer.special.values()))
    made = []
    for _ in range(5 * N_TEXTS if ordinary else 0):
        data = b"".join(
            tokenizer.token_bytes(one) for one in rng.choices(ordinary, k=rng.randint(1, 6))
        )
        try:
            made.append(data.decode())
        except UnicodeDecodeError:
            continue  # parts of characters; whole ones are among the other texts
    return made


def _streaming(exam: Examination, tokenizer: Tokenizer, said: list[str]) -> None:
    """Show a text as it is written: each piece whole characters, all together the text."""
    for text in said + [text for text in SPLIT if _can_say(tokenizer, text)]:
        stream = TextStream()
        pieces = [
            stream.push(tokenizer.token_bytes(one)) for one in tokenizer.encode_ordinary(text)
        ]
        pieces.append(stream.finish())
        if "".join(pieces) != text:
            exam.find("T3", f"{text!r} streams as {''.join(pieces)!r}")


def _control(exam: Examination, tokenizer: Tokenizer, said: list[str]) -> None:
    control = set(tokenizer.special.values())
    names = [*tokenizer.special, *texts.CONTROLS]
    for text in [*said, *names, *(f"a{name}b" for name in names)]:
        if _can_say(tokenizer, text) and control & set(tokenizer.encode_ordinary(text)):
            exam.find("T5", f"encode_ordinary({text!r}) gives a control token; it must be text")


def _refusals(exam: Examination, tokenizer: Tokenizer) -> None:
    for text in (texts.LONE_SURROGATE, "\U000e0fff", "\u0378"):
        try:
            tokenizer.encode_ordinary(text)
        except RequestError:
            pass
        except Exception as error:
            exam.find(
                "T6",
                f"encode_ordinary({text!r}) raises {type(error).__name__}; raise RequestError, "
                "naming character and offset",
                "warning",
            )


def _can_say(tokenizer: Tokenizer, text: str) -> bool:
    try:
        tokenizer.encode_ordinary(text)
    except RequestError:
        return False
    return True


# Files and time -------------------------------------------------------------------------------


def _saving(exam: Examination, tokenizer: Tokenizer, said: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        if not any(Path(folder).iterdir()):
            exam.find("T7", "save() writes no file")
            return
        again = type(tokenizer).load(Path(folder))
    if difference := _difference(tokenizer, again, said):
        exam.find("T7", f"after save() and load() {difference}")


def _difference(one: Tokenizer, two: Tokenizer, said: list[str]) -> str:
    """Say in what two tokenizers differ."""
    for what in ("vocab_size", "special"):
        had, has = getattr(one, what), getattr(two, what)
        if had != has:
            return f"{what} is {has!r}, not {had!r}"
    for token_id in range(min(one.vocab_size, N_IDS)):
        if one.token_bytes(token_id) != two.token_bytes(token_id):
            return (
                f"id {token_id} is {two.token_bytes(token_id)!r}, not {one.token_bytes(token_id)!r}"
            )
    for text in said:
        if one.encode_ordinary(text) != two.encode_ordinary(text):
            return f"{text!r} is encoded otherwise"
    return ""


def _megabyte(exam: Examination, tokenizer: Tokenizer) -> None:
    """Read more and more of one letter: merging in quadratic time would take an hour."""
    slowest = 0.0
    for letter in LETTERS:
        before = float("inf")
        for part in (0.01, 0.1, 1.0):
            text = letter * int(part * MEGABYTE / len(letter.encode()))
            try:
                seconds = _seconds(tokenizer.encode_ordinary, text, part * MOST_S)
            except RequestError:
                break  # a closed vocabulary lacks it
            if seconds > MOST_S * part and (part == 1.0 or seconds > SUSPICIOUS * before):
                exam.find("T8", f"{len(text):,} times {letter!r} take {seconds:.2f} s")
                return
            before = seconds
            slowest = max(slowest, seconds if part == 1.0 else 0.0)
    if slowest:
        exam.costs["1 MB of one letter, ms"] = 1000 * slowest
    else:
        exam.skip("T8", "1 MB of one letter in a second", "it has no letter to repeat")


def _seconds(call: Any, text: str, enough: float) -> float:
    """Return the time of the fastest call; of a busy machine's only the time at work."""
    best = float("inf")
    for _ in range(3):
        wall, work = time.perf_counter(), time.process_time()
        call(text)
        best = min(best, time.perf_counter() - wall, time.process_time() - work)
        if best < enough or best > 20 * enough:
            break
    return best
