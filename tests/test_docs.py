"""The documentation against the program: commands, options, hooks, examples, links, made blocks."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from gptkit import plugin_api, plugin_host
from gptkit.config import parse_yaml
from gptkit.decoding.chain import ChainRunner
from gptkit.decoding.request import Request, Stops, resolve_chain, resolve_stops
from gptkit.decoding.sequence import Sequence
from gptkit.jobs.spec import JobSettings
from gptkit.testing import examine
from gptkit.text.prompting import conversation, few_shot
from gptkit.text.template import from_document, read_template
from gptkit.training.grammar import expand
from gptkit.training.recipe import RecipeSettings
from tests import docs_pictures, docs_talks
from tests.docs_blocks import BLOCK, DOCS, commands, made_anew
from tests.docs_talks import BLOCK as TALK
from tests.fakes import ByteTokenizer

if TYPE_CHECKING:
    from pathlib import Path

ROOT = DOCS.parent
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md"])
OTHERS = {"--index-url", "--strict"}
"""Options of other programs that the pages name."""


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


# Commands and options ---------------------------------------------------------------------------


def written_commands(page: Path) -> list[list[str]]:
    """Return every command line of gptkit in a page's examples, as words."""
    lines = []
    for block in fenced(read(page), "console"):
        for line in block.replace("\\\n", "").splitlines():
            if line.startswith("$ "):
                lines += re.split(r" [|] | && ", line[2:])
    lines += re.findall(r"`(gptkit [^`]+)`", read(page))
    found = []
    for line in lines:
        words = shlex.split(line.partition(" #")[0])
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words and words[0] == "gptkit":
            found.append(words[1:])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_examples_exist_with_their_options(page):
    known = commands()
    for words in written_commands(page):
        if words[:1] in ([], ["--help"], ["--version"], ["..."]):
            continue
        name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
        if not any(key == name or key.startswith(f"{name} ") for key in known):
            pytest.fail(f"{page.name}: no command 'gptkit {' '.join(words)}'")
        command = known.get(name)
        opts = {opt for one in command.params for opt in one.opts} if command else set()
        for word in words:
            option = word.partition("=")[0]
            if re.match(r"--?[a-z]", option):
                assert option in opts | {"--help", "-h"}, f"{page.name}: gptkit {' '.join(words)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_named_in_the_text_exist(page):
    known = {opt for one in commands().values() for param in one.params for opt in param.opts}
    prose = re.sub(r"^```.*?^```", "", read(page), flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"`([^`\n]+)`", prose):
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", span):
            assert option in known | {"--help"} | OTHERS, f"{page.name}: {option}"


def test_every_command_has_help_and_a_page():
    pages = "".join(map(read, PAGES))
    for name, command in commands().items():
        assert command.help, name
        assert f"gptkit {name}" in pages, name


def test_every_slash_command_is_on_the_page():
    from gptkit.chat.commands import OWN

    page = read(DOCS / "chat.md")
    for name in OWN:
        assert f"`/{name}" in page, name


def talks() -> dict[str, str]:
    """Return the talks of the pages by name."""
    return {
        name: text for page in docs_talks.PAGES for _, name, text, _ in TALK.findall(read(page))
    }


def test_each_talk_is_on_a_page():
    names = [name for page in docs_talks.PAGES for _, name, _, _ in TALK.findall(read(page))]
    assert sorted(names) == sorted(docs_talks.TALKS)
    for page in PAGES:
        assert read(page).count("<!-- talk:") == len(TALK.findall(read(page)))


@pytest.mark.slow
@pytest.mark.parametrize("name", docs_talks.TALKS)
def test_a_talk_is_what_the_program_says(name):
    now, shown = map(docs_talks.without_moving, (docs_talks.replayed(name), talks()[name]))
    assert now == shown, f"run python -m tests.docs_talks {name}"


@pytest.mark.parametrize("name", ["chat", "probs"])
def test_a_picture_shows_what_its_script_says_and_fetches_nothing(name):
    svg = read(DOCS / "images" / f"{name}.svg")
    assert name in docs_pictures.PICTURES and len(svg) < 40_000
    assert not re.search(r"https?://(?!www\.w3\.org/)|@import|<script", svg)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_made_blocks_are_current(page):
    text = read(page)
    assert made_anew(text) == text, "run python -m tests.docs_blocks"
    assert text.count("<!-- made:") == len(BLOCK.findall(text))
    assert "<!-- transcript" not in text


# Plugins ----------------------------------------------------------------------------------------


def hooks() -> list[str]:
    return [name for name in vars(plugin_api.Hooks) if name.startswith("gptkit_")]


@pytest.mark.parametrize("hook", hooks())
def test_every_hook_is_on_the_page_with_its_signature(hook):
    page = read(DOCS / "plugins.md")
    returns = inspect.signature(getattr(plugin_api.Hooks, hook)).return_annotation
    assert f"def {hook}() -> {returns}: ..." in page
    assert re.search(rf"@hookimpl\ndef {hook}\(\):\n(    .*\n)*    yield", page), "no example"


@pytest.fixture
def examples(tmp_path, monkeypatch):
    """Write the examples of the page as files, load them as GPTKIT_PLUGINS does."""
    page = read(DOCS / "plugins.md")
    blocks = re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```', page, re.MULTILINE | re.DOTALL)
    for name, text in blocks:
        (tmp_path / name).write_text(text)
    files = [str(path) for path in sorted(tmp_path.glob("*.py"))]
    monkeypatch.setenv("GPTKIT_PLUGINS", os.pathsep.join(files))
    before = set(sys.modules)
    registry = plugin_host.registry()
    yield registry
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_the_examples_load(examples):
    assert not [plugin.reason for plugin in examples.failed]
    offered = {o.kind for o in examples.offers() if o.source.distribution != plugin_host.OURS}
    assert offered == {kind for kind, _ in plugin_host.HOOKS.values()}


def test_the_sampler_examples_sample(examples):
    import torch

    tokenizer = ByteTokenizer()
    vocab = plugin_vocab(tokenizer)
    chain = resolve_chain([{"pacer": 2.0}, {"square": 0.3}], examples)
    request = Request((1, 2), chain, Stops(3), 7)
    runner = ChainRunner(chain)
    sequences = [Sequence.start(i, request, runner, vocab, 100) for i in range(3)]
    logits = torch.zeros(3, tokenizer.vocab_size)
    logits[[0, 1, 2], [5, 6, 7]] = 6.0
    picked = runner.run(logits, sequences, vocab)
    assert [one.error for one in picked] == [None] * 3
    assert all(state[0] != 1.0 for state in (one.states for one in picked))  # the pacer's moved
    assert [one.token for one in picked] == [5, 6, 7]  # all that square leaves


def test_the_sampler_examples_conform(examples):
    for name in ("square", "pacer", "margin"):
        report = examine(examples.find("sampler", name).value)
        assert report.ok, (name, report.errors)


def plugin_vocab(tokenizer):
    from gptkit.decoding.engine import TokenizerVocab

    return TokenizerVocab(tokenizer, frozenset())


@pytest.mark.parametrize(
    ("pieces", "cut"), [((b"One\nTw", b"o\nTh"), 3), ((b"a\n", b"b\n"), 1), ((b"\n\n\n",), 2)]
)
def test_the_criterion_example_ends_at_its_line(examples, pieces, cut):
    (asked,) = resolve_stops({"lines": 2}, examples).criteria
    criterion = asked.criterion()
    state = criterion.init_state(plugin_api.RequestView((), asked.values, None, 0))
    for n, data in enumerate(pieces, start=1):
        state, stop = criterion.push(state, 0, data, n)
        assert (stop is not None) == (n == len(pieces))
    assert stop.reason == "lines"
    assert stop.cut_bytes == cut


def test_the_tokenizer_example_makes_the_round_trip(examples, tmp_path):
    kind = examples.find("tokenizer", "utf8").value
    made = kind.train(["x"], special=("<|end|>",))
    made.save(tmp_path)
    again = kind.load(tmp_path)
    assert again.special == made.special == {"<|end|>": 256}
    assert again.decode(again.encode_ordinary("Grüße, 🐈 <|end|>")) == "Grüße, 🐈 <|end|>"
    assert kind.load(None).vocab_size == 256


def test_the_template_examples_render(examples):
    tokenizer = ByteTokenizer()
    made = {}
    for name in ("haiku", "letters", "which_line", "play"):
        value = examples.find("template", name).value
        made[name] = value() if isinstance(value, type) else read_template(value, name)

    def shot(name, fields, example):
        return tokenizer.decode(few_shot(made[name], [example], fields, tokenizer, 500).ids)

    assert shot("haiku", {"subject": "rain"}, {"subject": "sun", "haiku": "Hot."}) == (
        "Write a haiku about each subject.\n\nSubject: sun\nHaiku: Hot.\n\nSubject: rain\nHaiku:"
    )
    asked = {"text": "a\nb", "question": "which?"}
    assert shot("which_line", asked, {**asked, "line": "2"}) == (
        "Which line answers the question?\n\n1. a\n2. b\nQuestion: which?\nLine: 2\n\n"
        "1. a\n2. b\nQuestion: which?\nLine:"
    )
    turns = [("user", "Hi"), ("assistant", "Ho"), ("user", "Hey")]
    said = {
        name: tokenizer.decode(conversation(made[name], "Be kind.", turns, tokenizer, 500).ids)
        for name in ("letters", "play")
    }
    assert said["play"] == "(Be kind.)\n\nYOU\nHi\n\nMINI\nHo\n\nYOU\nHey\n\nMINI\n"
    assert said["letters"].endswith("Dear mini,\nHey\n\nDear friend,\n")


def test_the_sampler_of_the_readme_is_complete(tmp_path):
    (code,) = fenced(read(ROOT / "README.md"), "python")
    (tmp_path / "square.py").write_text(code)
    (loaded,) = plugin_host.load(plugin_host.discover([], [str(tmp_path / "square.py")]))
    assert loaded.reason is None
    assert [offer.name for offer in loaded.offers] == ["square"]
    del sys.modules["gptkit_local_square"]


# Other examples -----------------------------------------------------------------------------------


def test_the_yaml_examples_are_what_they_say():
    (job, *_) = [b for b in fenced(read(DOCS / "run.md"), "yaml") if "template:" in b]
    document = parse_yaml(job, "run.md")
    assert document.build(JobSettings).k is None
    assert from_document(document, "run.md", at=("template",)).output == "summary"
    recipe, talk = (
        [b for b in fenced(read(DOCS / "train.md"), "yaml") if start in b][0]
        for start in ("max_steps", "conversations:")
    )
    assert parse_yaml(recipe, "train.md").build(RecipeSettings).training.max_steps == 5000
    told = parse_yaml(talk, "train.md").data
    import random

    first, second = expand(told["conversations"][0], told["lists"], random.Random(0))
    assert first.rstrip("?").split()[-1] == second.rstrip(".").split()[-1]


def test_the_tree_of_the_readme_is_the_repository_s():
    (tree,) = re.findall(r"^```text\ngptkit/\n(.*?)^```", read(ROOT / "README.md"), re.M | re.S)
    named, folders = set(), {0: "gptkit"}
    for line in f"gptkit/\n{tree}".splitlines():
        entry = re.match(r"( *)(\S+)", line)
        depth, name = len(entry[1]) // 2, entry[2]
        path = "/".join([folders[i] for i in range(depth)] + [name.rstrip("/")])
        if name.endswith("/"):
            folders[depth] = name.rstrip("/")
        assert (ROOT / path).exists(), path
        named.add(path)
        assert len(line.split()) > 1 or name.endswith("/"), f"no phrase for {path}"
    for folder in ("gptkit", "plugins"):
        for path in (ROOT / folder).rglob("*.py"):
            path = path.relative_to(ROOT)
            if path.name != "__init__.py":
                assert str(path) in named, f"{path} is missing in the README's tree"


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text().partition("nav:")[2]
    assert set(re.findall(r"[\w-]+\.md", nav)) == {page.name for page in DOCS.glob("*.md")}


def test_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)", read(ROOT / "README.md")):
        assert "://" in target or (ROOT / target).exists(), target


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = "".join(read(page) for page in tmp_path.rglob("*.html"))
    assert not re.search(r'(src|href)="(https?:)?//[^"]*\.(js|css|woff2?)"', pages)
