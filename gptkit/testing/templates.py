"""Examine a template: its pieces fit together, and text stays text."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Any

from gptkit.errors import ConfigError, ContextOverflow, GptkitError
from gptkit.plugin_api import ChatTemplate, Segment, Template
from gptkit.testing import imports, texts
from gptkit.testing.model import SMALL, KitTokenizer
from gptkit.testing.report import Examination
from gptkit.text import prompting
from gptkit.text.template import read_template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from gptkit.testing.report import Report

OPEN, CLOSE = "\ue000", "\ue001"
"""Stand around the name of a control token where pieces are compared as one text."""
N_TEXTS = 20


def examine(plugin: Any, *, seed: int = 0) -> Report:
    """Examine a template class, one that is built, or the YAML file of one."""
    is_file = hasattr(plugin, "read_text")
    cls: Any = plugin if isinstance(plugin, type) else type(plugin)
    name = str(plugin.name).removesuffix(".yaml") if is_file else cls.name
    exam = Examination(name, "template", cls.summary() if not is_file else _first_line(plugin))
    built: list[Template | ChatTemplate] = []
    if not is_file:
        exam.file = imports.file_of(cls)
        imports.check(exam, cls)
    if exam.check("P1", "it can be built", _building, plugin, name, built):
        rng, template = random.Random(seed), built[0]
        if isinstance(template, ChatTemplate):
            _examine_chat(exam, template, rng)
        else:
            _examine_few_shot(exam, template, rng)
    return exam.report()


def _building(
    exam: Examination, plugin: Any, name: str, built: list[Template | ChatTemplate]
) -> None:
    if hasattr(plugin, "read_text"):
        built.append(read_template(plugin, name))
    else:
        built.append(plugin() if isinstance(plugin, type) else plugin)


def _first_line(resource: Any) -> str:
    """Return the comment that a YAML file begins with."""
    first = str(resource.read_text(encoding="utf-8")).partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


# What both have -------------------------------------------------------------------------------


def _pieces(exam: Examination, what: str, made: Any) -> str:
    """Return pieces as one text; complain of what is no tuple of segments."""
    if not isinstance(made, tuple) or not all(isinstance(one, Segment) for one in made):
        exam.find("P2", f"{what} is {made!r}, no tuple of Segments")
        made = tuple(one for one in made if isinstance(one, Segment))
    for one in made:
        if not isinstance(one.text, str) or (one.control and not one.text):
            exam.find("P2", f"{what} has a segment without a text or name: {one!r}")
    return _shown(made)


def _shown(segments: Iterable[Segment]) -> str:
    return "".join(f"{OPEN}{s.text}{CLOSE}" if s.control else s.text for s in segments)


def _controls(segments: Iterable[Segment]) -> list[str]:
    return [segment.text for segment in segments if segment.control]


def _stops(exam: Examination, stops: Any, after: str) -> None:
    """Look whether one of the stops is what follows an answer."""
    shown = [_pieces(exam, "stops", (one,)) for one in stops]
    if not shown or not all(shown):
        exam.find("P5", f"stops are {stops!r}: nothing, or the empty text, ends an answer")
    elif not any(after.startswith(stop) for stop in shown):
        exam.find("P5", f"after an answer comes {after[:20]!r}, which is none of the stops {shown}")


def _nasty(rng: random.Random, names: Sequence[str]) -> str:
    """Return a text with names of control tokens in it; blanks at its ends may be cut."""
    return f"x{rng.choice((*names, *texts.CONTROLS))}{texts.nasty(rng, 6)}x"


def _same_controls(
    exam: Examination,
    what: str,
    make: Callable[[str], tuple[Segment, ...]],
    rng: random.Random,
) -> None:
    """Fill in texts that look like control tokens: no more than before may be control."""
    want = _controls(make("x"))
    for _ in range(N_TEXTS):
        text = _nasty(rng, want)
        made = make(text)
        if _controls(made) != want:
            exam.find("P6", f"{text!r} in {what} becomes control: {_controls(made)}, not {want}")
        elif not any(text in one.text for one in made if not one.control):
            exam.find("P6", f"{what} does not have {text!r} as it stands, but {_shown(made)!r}")
        if make(text) != made:
            exam.find("P8", f"{what} is another the second time")


def _tokenizer(segments: Iterable[Segment]) -> KitTokenizer:
    """Return a tokenizer that has the control tokens which a template names."""
    made = KitTokenizer(SMALL)
    names = dict.fromkeys([*made.special, *_controls(segments)])
    made.special = {name: len(made.pieces) + i for i, name in enumerate(names)}
    return made


# Few-shot -------------------------------------------------------------------------------------


def _examine_few_shot(exam: Examination, template: Template, rng: random.Random) -> None:
    if exam.check("P2", "pieces are segments, fields are declared", _fields, template):
        exam.check("P4", "an example is the item, then its output", _example, template)
        exam.check("P3", "a field that is missing is named", _missing, template)
        exam.check("P6", "text never becomes control", _field_texts, template, rng)
        exam.check("P7", "examples are left out to fit", _few_shot, template)


def _values(template: Template, i: int = 0) -> dict[str, str]:
    """Return values for all fields, no two alike."""
    return {field: f"value {i} of {field}" for field in (*sorted(template.inputs), template.output)}


def _inputs(template: Template, i: int = 0) -> dict[str, str]:
    return {k: v for k, v in _values(template, i).items() if k in template.inputs}


def _fields(exam: Examination, template: Template) -> None:
    if not isinstance(template.output, str) or not template.output:
        exam.find("P1", f"output is {template.output!r}, no name of a field")
    if not isinstance(template.inputs, frozenset):
        exam.find("P1", f"inputs is {type(template.inputs).__name__}, no frozenset of names")
    if template.output in template.inputs:
        exam.find("P1", f"the output {template.output!r} is among the inputs: the answer is known")
    given = _values(template)
    before = dict(given)
    _pieces(exam, "head()", template.head())
    try:
        _pieces(exam, "example()", template.example(given))
        _pieces(exam, "item()", template.item(_inputs(template)))
    except (KeyError, GptkitError) as error:
        exam.find("P3", f"it needs more than inputs says, {sorted(template.inputs)}: {error}")
    if given != before:
        exam.find("P8", "example() changes the fields that it is given")


def _example(exam: Examination, template: Template) -> None:
    given = _values(template)
    whole, item = _shown(template.example(given)), _shown(template.item(_inputs(template)))
    answer = given[template.output]
    if answer in _shown(template.item(given)):
        exam.find("P4", "item() contains the output, which the model is to write")
    if not whole.startswith(item):
        exam.find(
            "P4", f"an example begins with {whole[:40]!r}, the prompt's item with {item[:40]!r}"
        )
        return
    rest = whole[len(item) :].lstrip(" \t")
    if not rest.startswith(answer):
        exam.find("P4", f"after the item an example has {rest[:40]!r}, not its output")
        return
    following = _shown(template.example(_values(template, 1)))
    _stops(exam, template.stops, rest[len(answer) :] + following)


def _missing(exam: Examination, template: Template) -> None:
    for field in sorted(template.inputs):
        given = {k: v for k, v in _inputs(template).items() if k != field}
        _refused(exam, f"item() without {field}", partial(template.item, given))
    given = _inputs(template)
    _refused(exam, f"example() without {template.output}", partial(template.example, given))


def _refused(exam: Examination, what: str, call: Callable[[], Any]) -> None:
    try:
        call()
    except GptkitError:
        return
    except Exception as error:
        exam.find("P3", f"{what} raises {type(error).__name__}; raise ConfigError naming the field")
        return
    exam.find("P3", f"{what} gives a prompt all the same; raise ConfigError naming the field")


def _field_texts(exam: Examination, template: Template, rng: random.Random) -> None:
    for field in sorted(template.inputs):
        make = partial(_filled, template.item, _inputs(template), field)
        _same_controls(exam, f"item, {field}", make, rng)
    for field in (*sorted(template.inputs), template.output):
        make = partial(_filled, template.example, _values(template), field)
        _same_controls(exam, f"example, {field}", make, rng)


def _filled(
    make: Callable[[Mapping[str, str]], tuple[Segment, ...]],
    given: Mapping[str, str],
    field: str,
    text: str,
) -> tuple[Segment, ...]:
    """Return pieces with a text in one field."""
    return make({**given, field: text})


def _few_shot(exam: Examination, template: Template) -> None:
    """Make prompts as a job does, with less and less room."""
    examples = [_values(template, i) for i in range(4)]
    fields: Mapping[str, str] = _inputs(template, 9)
    tokenizer = _tokenizer((*template.head(), *template.example(examples[0]), *template.stops))
    whole = prompting.few_shot(template, examples, fields, tokenizer, 10**6)
    room = len(whole.ids)
    while room:
        try:
            prompt = prompting.few_shot(template, examples, fields, tokenizer, room)
        except ContextOverflow:
            break
        if not tokenizer.decode(prompt.ids).endswith(_ending(template.item(fields))):
            exam.find("P7", "a prompt does not end with its item")
        room = len(prompt.ids) - 1
    if whole.n_examples != len(examples):
        exam.find(
            "P7", f"with room for all there are {whole.n_examples} of {len(examples)} examples"
        )


def _ending(segments: Sequence[Segment]) -> str:
    """Return the text that stands last."""
    return segments[-1].text if segments and not segments[-1].control else ""


# Chat -----------------------------------------------------------------------------------------


def _examine_chat(exam: Examination, template: ChatTemplate, rng: random.Random) -> None:
    if exam.check("P2", "pieces are segments", _turns, template):
        exam.check("P4", "an answer follows what opens it", _answer, template)
        exam.check("P6", "text never becomes control", _turn_texts, template, rng)
        exam.check("P7", "old turns are left out to fit", _conversation, template)


def _turns(exam: Examination, template: ChatTemplate) -> None:
    _pieces(exam, "head(None)", template.head(None))
    _pieces(exam, "turn('user')", template.turn("user", "a question"))
    _pieces(exam, "turn('assistant')", template.turn("assistant", "an answer"))
    _pieces(exam, "reply()", template.reply())


def _answer(exam: Examination, template: ChatTemplate) -> None:
    opened, whole = _shown(template.reply()), _shown(template.turn("assistant", "an answer"))
    if not whole.startswith(opened):
        exam.find("P4", f"a turn begins with {whole[:30]!r}, what opens an answer is {opened!r}")
        return
    rest = whole[len(opened) :].lstrip(" \t")
    if not rest.startswith("an answer"):
        exam.find("P4", f"what opens an answer is followed by {rest[:30]!r}, not by the answer")
        return
    following = _shown(template.turn("user", "a question"))
    _stops(exam, template.stops, rest[len("an answer") :] + following)


def _turn_texts(exam: Examination, template: ChatTemplate, rng: random.Random) -> None:
    _same_controls(exam, "a user's turn", partial(template.turn, "user"), rng)
    _same_controls(exam, "an assistant's turn", partial(template.turn, "assistant"), rng)
    try:
        template.head("x")
    except ConfigError:
        return  # it has no place for an instruction
    _same_controls(exam, "the instruction", template.head, rng)


def _conversation(exam: Examination, template: ChatTemplate) -> None:
    """Make prompts as a chat does, with less and less room."""
    turns: list[tuple[prompting.Role, str]] = []
    for i in range(4):
        turns += [("user", f"question {i}"), ("assistant", f"answer {i}")]
    turns = turns[:-1]
    said = (*template.head(None), *template.turn("user", "x"), *template.turn("assistant", "x"))
    tokenizer = _tokenizer((*said, *template.reply(), *template.stops))
    room = len(prompting.conversation(template, None, turns, tokenizer, 10**6).ids)
    while room:
        try:
            prompt = prompting.conversation(template, None, turns, tokenizer, room)
        except ContextOverflow:
            break
        if "question 3" not in tokenizer.decode(prompt.ids):
            exam.find("P7", "a prompt lacks the last question")
        room -= 1
