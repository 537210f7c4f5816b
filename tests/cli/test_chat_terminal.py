"""The comfort of `gptkit chat` in a real pseudo-terminal: what moves, what colours, what starts."""

import base64
import json
import re
import sys
import time

import pytest

EDITOR = """
import json, pathlib, sys
old, new = json.loads(pathlib.Path(__file__).with_suffix(".json").read_text())
path = pathlib.Path(sys.argv[1])
path.write_text(path.read_text().replace(old, new))
"""
NUMBERS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"


@pytest.fixture(scope="module")
def editor(tmp_path_factory):
    """Return a program that puts one text in the place of another, and the file that says which."""
    program = tmp_path_factory.mktemp("editor") / "editor.py"
    program.write_text(EDITOR)
    return program


@pytest.fixture(scope="module")
def talk(open_talk, editor):
    return open_talk(EDITOR=f"{sys.executable} {editor}")


# Ctrl-C -----------------------------------------------------------------------------------------


def test_ctrl_c_stops_an_answer_at_once_and_continue_goes_on(talk):
    waits = []
    for _ in range(3):  # the best of them: other tests may run beside this one
        talk.anew(NUMBERS, "after", delay_s=0.02, columns=120)
        talk.type("go\r")
        talk.wait("two three")
        pressed = time.monotonic()
        talk.type("\x03")
        talk.wait("[stopped]")
        waits.append(time.monotonic() - pressed)
        talk.wait_for_prompt()
        if waits[-1] < 0.2:
            break
    assert min(waits) < 0.2
    assert "fifteen" not in talk.text()
    assert "2 model [cancelled] [you are here]: one two three" in talk.ask("/tree", "2 model")
    text = talk.ask("/continue", "fifteen")
    assert text.rpartition("/continue\n")[2].startswith(f"{NUMBERS}\n\n>")
    talk.ask("/tree", "branch 2 of 2")


def test_ctrl_c_again_breaks_off_what_hangs_and_the_message_is_not_lost(talk):
    talk.anew("never", "fine", delay_s=30)
    talk.type("a question\r")
    time.sleep(0.2)
    talk.type("\x03")
    time.sleep(1.1)
    talk.type("\x03")
    talk.wait("stopped in the middle of a step", "the message is back in the line\n> a question")
    talk.type("\x03")
    talk.wait_for_prompt()
    talk.ask("/set scripted 0")
    talk.delay_s = 0.0
    talk.ask("again", "again\nnever")


def test_a_plugin_that_calls_sys_exit_ends_the_answer_alone(talk):
    talk.anew("fine")
    talk.ask("/set leaves 3")
    talk.ask("hi", "error: sampler 'leaves' called sys.exit(3)")
    talk.ask("/set leaves off")
    talk.ask("hi", "hi\nfine")


# What the line takes ----------------------------------------------------------------------------


def test_several_lines_by_keys_by_paste_and_by_command(talk):
    talk.anew("ok")
    talk.type("one\x1b\rtwo\r")  # Alt-Enter
    talk.wait("> one\n  two\nok")
    talk.wait_for_prompt()
    pasted = "\r".join(f"line {i}" for i in range(400))
    talk.type(f"\x1b[200~{pasted}\x1b[201~")
    talk.wait("  line 399")
    talk.type("\x03")
    talk.wait_for_prompt()

    talk.type("/multi\r")
    talk.wait("/end on a line of its own")
    talk.type("/first\rsecond\r\rthird\r/end\r")
    talk.wait("third\nok\n\n>")
    talk.wait_for_prompt()
    talk.ask("/prompt", "<|user|>/first\nsecond\n\nthird<|assistant|>ok")
    talk.type("/multi\rdropped\r\x03")
    talk.wait("dropped")
    talk.wait_for_prompt()
    talk.ask("x", "> x\nok")


def test_search_through_what_was_typed(talk):
    talk.anew("ok")
    for line in ("find me please", "something else"):
        talk.ask(line, f"{line}\nok")
    talk.type("\x12find")
    talk.wait("I-search backward: find")
    talk.type("\r\r")
    talk.wait("something else\nok\n\n> find me please\nok")
    talk.wait_for_prompt()


WIDE = "Ünï 漢字仮名 e\u0301 👩\u200d💻 👍🏽 🇩🇪 العربية"


def test_wide_and_combining_characters_are_typed_and_answered(talk):
    talk.anew(WIDE, columns=60)
    talk.type(WIDE)
    time.sleep(0.1)
    talk.type("\x7f" * 3 + "\r")
    talk.wait("> Ünï 漢字仮名")
    talk.wait_for_prompt()
    assert f"{WIDE}\r\n".encode() in talk.raw.replace(b"\x1b7", b"")
    talk.raw = b""
    talk.ask("/prompt", "tokens)")
    assert WIDE[:-3].encode() in talk.raw  # Backspace took a letter each


def test_completion_of_commands_values_names_and_paths(talk, tmp_path):
    (tmp_path / "notes about it.txt").write_text("x")
    (tmp_path / "folder").mkdir()
    talk.anew("one", columns=150)
    talk.ask("hi", "one")
    for typed, wanted in (
        ("/s", ("/set [NAME VALUE]", "/show", "/stop [TEXT]", "/system [TEXT]")),
        ("/set top", ("top_k", "at least 0", "top_p", "at least 0 and at most 1")),
        ("/set mirostat ", ("tau=", "eta=", "version=", "at least 1 and at most 2")),
        ("/set on_overflow ", ("drop_oldest", "slide", "error")),
        ("/preset ", ("llama.cpp", "nanogpt")),
        ("/template ", ("show", "dialogue", "chat")),
        ("/model ", ("mini",)),
        ("/goto ", ("user: hi", "assistant: one")),
        ("/chain scr", ("scripted",)),
        (f"/file {tmp_path}/", ("folder/", "notes about it.txt")),
    ):
        talk.type(typed)
        talk.wait(*wanted)
        talk.type("\x15")
        talk.wait_for_prompt()
    talk.type(f"/file {tmp_path}/no")
    talk.wait("notes about it.txt")
    talk.type("\t")
    talk.wait("notes about it.txt'")  # quoted, for its blanks
    talk.type("\x15")
    talk.wait_for_prompt()


@pytest.mark.slow
def test_vi_keys(open_talk):
    talk = open_talk(args=["--keys", "vi"])
    talk.anew("ok")
    talk.type("hello wurld\x1b")
    talk.wait("normal · ")
    talk.type("bcwworld")
    talk.wait("> hello world")
    talk.type("\r")
    talk.wait("> hello world\nok")


# What commands do -------------------------------------------------------------------------------


def test_a_turn_of_either_side_in_the_editor(talk, editor):
    def replaces(old, new):
        editor.with_suffix(".json").write_text(json.dumps([old, new]))

    talk.anew("one", "two")
    talk.ask("a cat", "one")
    replaces("cat", "dog")
    talk.ask("/edit", "said: a dog\none")
    talk.ask("/edit", "the text is as it was")
    replaces("one", "One more time")
    talk.ask("/edit 4", "turn 5 in the place of 4")
    text = talk.ask("/tree", "5 model [edited] [you are here]: One more time")
    assert "├─ 1 you: a cat" in text and "└─ 3 you: a dog" in text
    assert "└─ 5 model [edited]" in text
    replaces("cat", "bird")
    talk.type("another cat\x18\x05")  # Ctrl-X Ctrl-E: what stands in the line
    talk.wait("> another bird")
    talk.type("\r")
    talk.wait("> another bird\ntwo")
    talk.wait_for_prompt()


def test_the_clipboard_of_the_terminal(talk):
    talk.anew("Grüße\x1b[201~!")
    talk.ask("/copy", "there is no answer to copy")
    talk.ask("hi", "Grüße")
    talk.ask("/copy", "copied 12 characters, if the terminal allows it")
    # What is pasted would steer a terminal too, so it is what was shown.
    assert b"\x1b]52;c;" + base64.b64encode("Grüße␛[201~!".encode()) + b"\x07" in talk.raw


def test_the_settings_and_where_they_came_from(talk):
    talk.anew("one")
    talk.ask("/set temperature 0.5")
    text = talk.ask("/show", "turns")
    assert re.search(r"chain +temperature=0.5 +/set\n", text)
    assert re.search(r"scripted\S* +(/set|command line)\n", text)
    assert re.search(r"template +chat +model", text)
    assert re.search(r"stop +max_new_tokens=256 +default", text)
    talk.ask("/set temperature off")
    talk.ask("hello", "one")
    talk.ask("/prompt", "<|user|>hello<|assistant|>one")
    assert b"\x1b[7m<|user|>" in talk.raw


def test_the_line_below_the_prompt(talk):
    talk.anew("one", "two")
    talk.ask("hi", "one")
    text = talk.ask("again", "two", "reused")
    last = text.rpartition("\n")[2]
    bar = "context ▰▱▱▱▱▱▱▱ 19 of 512, 493 left"
    assert re.fullmatch(f"tiny · {bar} · [0-9,]+ tokens/s · 7 reused · turn 4", last), last


def test_answers_side_by_side_or_below_each_other(talk):
    talk.anew("The same answer, twice.", columns=100)
    talk.ask("go", "twice.")
    text = talk.ask("/compare scripted=0 scripted=0.001 scripted=0.002", "scripted=0.002")
    row = next(line for line in text.split("\n") if line.count("The same answer") == 2)
    assert row.index("The") == 0
    assert row.rindex("The") > 45
    assert text.count("The same answer") == 4
    talk.resize(24, 60)
    text = talk.ask("/compare scripted=0 scripted=0.003", "--- scripted=0.003\nThe same")
    assert text.count("The same answer, twice.\n") >= 2


MARKDOWN = "# Title\n\n- some **bold** words\n- [bold] [/foo] [/] [link=x] :smile:"


def test_markdown_is_for_those_who_ask(talk):
    talk.anew(MARKDOWN)
    talk.ask("a", "- some **bold** words\n- [bold] [/foo]")
    talk.ask("/markdown on", "markdown: on")
    text = talk.ask("b", " • some bold words\n • [bold] [/foo] [/] [link=x] :smile:")
    assert text.count("**bold**") == 1
    assert "> b\n" in text
    talk.ask("/markdown off", "markdown: off")
    talk.ask("c", "> c\n# Title\n\n- some **bold**")


def test_what_has_gone_over_the_top_is_not_written_anew(talk):
    answer = "\n".join(f"- line {i}" for i in range(12))
    talk.anew(answer, rows=10)
    talk.ask("/markdown on", "markdown: on")
    talk.ask("go", "go\n- line 0", f"{answer}\n\n>")
    talk.ask("/markdown off", "markdown: off")


def test_probabilities_on_the_whole_screen(talk):
    talk.anew("abc", "next")
    talk.ask("hi", "abc")
    talk.raw = b""
    talk.type("/probs\r")
    text = talk.wait("token 1 of 4  'a'", "stage", "model", "q leaves")
    assert "abc<|end|>" in text
    assert re.search(r"^ +1 '.' +\d+\.\d%", text, re.MULTILINE)
    assert "≥0.9" in text
    talk.type("\x1b[C")
    talk.wait("token 2 of 4  'b'")
    talk.resize(12, 40)
    talk.wait("token 2 of 4  'b'", "Enter takes")
    talk.resize(24, 80)
    talk.wait("token 2 of 4  'b'", "model")
    talk.type("\x1b[F")
    talk.wait("token 4 of 4")
    talk.type("\x1b[H\x1b[C" + "\x1b[A" * 9)
    text = talk.wait("token 2 of 4")
    place, other = next(one for one in re.findall(r"(\d+) '(\w)' ", text) if one[1] != "b")
    talk.type("\x1b[B" * (int(place) - 1) + "\r")
    talk.wait(f"\na{other}c", "branch 2 of 2")
    text = talk.wait_for_prompt()
    assert "token 2 of 4" not in text  # the screen is what it was
    assert "> hi\nabc\n" in text
    talk.type("/probs\r")
    talk.wait("token 1 of 4")
    talk.type("q")
    talk.wait_for_prompt()


# Windows ----------------------------------------------------------------------------------------


def test_the_window_changes_while_an_answer_is_written(talk):
    answer = f"{NUMBERS} " * 3
    talk.anew(answer, delay_s=0.005)
    talk.type("go\r")
    for seen, columns in (("three", 100), ("six", 40), ("nine", 20), ("fifteen", 70)):
        talk.wait(seen)
        talk.resize(24, columns)
    talk.wait("go\n")
    text = talk.wait_for_prompt()
    said = talk.raw.decode().rpartition("go")[2]
    assert "error" not in text
    talk.ask("/show", "turns")
    talk.resize(24, 200)
    talk.ask("/prompt", answer.rstrip()[-100:])
    assert said.count("thirteen") >= 3


def test_the_window_changes_at_the_prompt(talk):
    talk.anew("ok")
    typed = "The quick brown fox jumps over 漢字, again and again, until the line is too long."
    talk.type(typed)
    for columns in (40, 20, 100, 80):
        talk.resize(24, columns)
        talk.wait("ng.")
        time.sleep(0.1)
    talk.type("\r")
    talk.wait("ok\n\n>")
    talk.resize(24, 150)
    talk.wait_for_prompt()
    talk.raw = b""
    talk.ask("/prompt", "tokens)")
    assert typed.encode() in talk.raw


def test_words_and_wide_characters_at_the_edge(talk):
    talk.anew("Some longer words wrap here.", "漢字仮名交じり文はここで折り返す。", columns=20)
    talk.ask("a", "Some longer words\nwrap here.\n\n>")
    text = talk.ask("b", "> b\n")
    lines = text.rpartition("> b\n")[2].split("\n")
    assert [line.replace(" ", "") for line in lines[:2]] == [
        "漢字仮名交じり文はこ",
        "こで折り返す。",
    ]


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_whatever_the_width_nothing_is_cut_off(talk, columns):
    talk.anew("Words and more words, again and again and again.", columns=columns, rows=30)
    talk.ask("hello", "again.")
    talk.ask("/retry", "again.")
    for line, wanted in (
        ("/help", "//TEXT"),
        ("/tree", "2 model"),
        ("/branch", "/branch"),
        ("/show", "turns"),
        ("/set", "on_overflow"),
        ("/compare scripted=0 scripted=0.001", "again."),
        ("/set top_p 7", "7 is"),
        ("/chain", "scripted"),
    ):
        text = talk.ask(line, wanted)
        assert max(map(len, text.split("\n"))) <= columns
    said = re.sub(r"\s+", "", talk.text())
    assert "9,223,372,036,854,775,807" in said  # the range of seeds, in /set
    assert "keep_system_and_examples" in said
    talk.type("/probs\r")
    text = talk.wait("≥0.9", "%")
    assert re.search(r"1.*\d%", text)
    talk.type("q")
    talk.wait_for_prompt()


# Colours ----------------------------------------------------------------------------------------

SGR = re.compile(rb"\x1b\[([0-9;]*)m")


def shows(raw):
    """Yield each foreground and ground in which something was written, None where the user's."""
    front = ground = None
    for match in SGR.finditer(raw):
        codes = (match[1].decode() or "0").split(";")
        while codes:
            code = codes.pop(0)
            if code in ("38", "48"):
                n = {"5": 2, "2": 4}[codes[0]]
                code, codes = ";".join([code, *codes[:n]]), codes[n:]
            if code == "0":
                front = ground = None
            elif re.match(r"3[0-8]|9[0-7]", code):
                front = code
            elif re.match(r"4[0-8]|10[0-7]", code) and code != "4":
                ground = code
            elif code in ("39", "49"):
                front, ground = (None, ground) if code == "39" else (front, None)
        yield front, ground


def luminance(colour):
    """Return the relative luminance of `#rrggbb`, as WCAG 2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_no_colour_of_ours_vanishes_on_a_light_or_a_dark_ground(talk):
    """Red for errors is the terminal's own; else who sets a colour sets the ground as well."""
    talk.anew(MARKDOWN)
    talk.ask("/markdown on", "markdown: on")
    talk.ask("hi", "some bold words")
    for line in ("/tree", "/show", "/prompt", "/help", "/set top_p 7"):
        talk.ask(line)
    talk.ask("/markdown off", "markdown: off")
    talk.type("/s")
    talk.wait("/show")
    talk.type("\t\t\x15")
    talk.wait_for_prompt()
    talk.type("/probs\r")
    talk.wait("≥0.9")
    talk.type("n\x1b[Cq")
    talk.wait_for_prompt()
    seen = set(shows(talk.raw))
    assert {front for front, ground in seen if ground is None} <= {None, "31"}
    assert {ground for front, ground in seen if front is None} <= {None, "48;5;238"}  # a scroll bar
    assert len(seen) > 8


def test_what_has_a_ground_of_its_own_can_be_read():
    from gptkit.chat.input_line import STYLE
    from gptkit.chat.probs_view import STYLE as PROBS

    pairs = []
    for style in (STYLE, PROBS):
        for name, rule in style.style_rules:
            front = re.search(r"(?<!bg:)(#\w{6})", rule)
            ground = re.search(r"bg:(#\w{6})", rule)
            assert bool(front) == bool(ground), name
            if front and ground:
                pairs.append((name, front[1], ground[1]))
    assert len(pairs) >= 10
    for name, front, ground in pairs:
        assert contrast(front, ground) >= 4.5, name


@pytest.mark.slow
def test_no_color(open_talk):
    talk = open_talk(NO_COLOR="1", columns=40)
    talk.anew("Words that go over the edge, over the edge.", columns=40)
    talk.ask("hi", "Words that go over the edge, over the ed\nge.")
    talk.ask("/undo 7", "error: /undo")
    talk.ask("/compare scripted=0 scripted=0.001", "--- scripted=0.001\nWords")
    talk.type("/s")
    talk.wait("/show")
    talk.type("\t")
    talk.wait("> /set\n")
    talk.type("\x15")
    talk.wait_for_prompt()
    talk.type("/probs\r")
    talk.wait("token 1")
    talk.type("q")
    talk.wait_for_prompt()
    assert not {pair for pair in shows(talk.raw) if pair != (None, None)}
    assert b"\x1b7" not in talk.raw
    assert re.search(rb"\x1b\[[0-9;]*7m /set", talk.raw)  # what is chosen is seen all the same


def test_a_dumb_terminal(start):
    chat = start("one", "two", env_more={"TERM": "dumb"}, prompt=False)
    chat.wait("/help lists the commands.", "\n>")
    for line, wanted in (
        ("hi", "> hi\none\n\n>"),
        ("/retry 2", "--- answer 2 of 2\none"),
        ("/tree", "└─ 4 model"),
        ("/copy", "this terminal has no clipboard"),
        ("/prompt", "⟦<|user|>⟧hi"),
        ("/probs", "token"),
        ("/markdown on", "markdown: on"),
        ("/multi", "> /multi\n>"),
        ("first", "> first\n>"),
        ("second", "> second\n>"),
        ("/end", "> /end\ntwo\n\n>"),
        ("/prompt", "⟦<|user|>⟧first\nsecond"),
    ):
        chat.type(f"{line}\r")
        chat.wait(wanted)
        chat.wait_for_prompt()  # what is typed before stands before it: such a terminal echoes
    chat.type("half a line")
    chat.wait("> half a line")
    chat.type("\x03")
    chat.wait("> half a line^C\n")
    chat.type("\x03")
    chat.wait("Ctrl-C again leaves")
    chat.type("/exit\r")
    assert chat.wait_for_exit() == 0
    assert b"\x1b" not in chat.raw
    assert b"\r" not in chat.raw.replace(b"\r\n", b"")
