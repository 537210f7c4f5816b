"""Streaming with word wrap, on the screen of a terminal emulator."""

from __future__ import annotations

import random
import unicodedata

import pyte
import pytest

from gptkit.chat.printer import Printer


class Screen:
    """A terminal of some size that a Printer writes to."""

    def __init__(self, columns, lines=40):
        self.columns, self.height = columns, lines
        self.screen = pyte.HistoryScreen(columns, lines, history=1000)
        self.screen.set_mode(pyte.modes.LNM)
        self.stream = pyte.Stream(self.screen)
        self.raw = ""

    def write(self, text):
        self.raw += text
        # The emulator drops what comes behind a character without width that is no accent.
        self.stream.feed(text.replace("\u200d", "").replace("\ufe0f", ""))

    def flush(self):
        pass

    def resize(self, columns):
        self.columns = columns
        self.screen.resize(columns=columns)

    def lines(self):
        """Return all lines; the second cell of a wide character is no character of its own."""
        width = self.screen.columns
        gone = [[line[x].data for x in range(width)] for line in self.screen.history.top]
        here = [[self.screen.buffer[y][x].data for x in range(width)] for y in range(self.height)]
        lines = ["".join(cells).rstrip() for cells in [*gone, *here]]
        while lines and not lines[-1]:
            lines.pop()
        return lines


def printer(screen, *, wraps=True):
    return Printer(screen, wraps=wraps, size=lambda out: (screen.columns, screen.height))


def shown(pieces, columns, lines=40):
    screen = Screen(columns, lines)
    to = printer(screen)
    for piece in pieces:
        to.write(piece)
    return screen.lines()


@pytest.mark.parametrize(
    ("text", "columns", "wanted"),
    [
        ("one two three", 8, ["one two", "three"]),
        ("one two three", 7, ["one two", "three"]),  # a blank at the edge is the line's end
        ("one two three", 20, ["one two three"]),
        ("abcdefghijkl mn", 5, ["abcde", "fghij", "kl mn"]),  # longer than a line: it is cut
        ("a abcdefghij", 5, ["a", "abcde", "fghij"]),
        ("exact\nnext", 5, ["exact", "next"]),  # no empty line between
        ("exact next", 5, ["exact", "next"]),
        ("漢字仮名交じり文", 7, ["漢字仮", "名交じ", "り文"]),
        ("漢字。仮名", 4, ["漢", "字。", "仮名"]),  # a stop does not begin a line
        ("see 漢字 now", 7, ["see 漢", "字 now"]),
        ("ab cafe\u0301s x", 8, ["ab cafés", "x"]),
        ("  indented words", 10, ["  indented", "words"]),
        ("\tx", 20, ["        x"]),
        ("a\tb", 20, ["a       b"]),
        ("😀😀😀", 5, ["😀😀", "😀"]),
        ("x", 1, ["x"]),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_the_table(text, columns, wanted, size):
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    got = [line.replace("e\u0301", "é") for line in shown(pieces, columns)]
    assert got == wanted


def wrapped(text, columns):
    """Wrap text of narrow characters whose words fit in a line; slow and obvious."""
    out = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            if line and len(line) + 1 + len(word) > columns:
                out.append(line)
                line = word
            else:
                line = f"{line} {word}" if line else word
        out.append(line)
    return out


@pytest.mark.parametrize("columns", [20, 33, 80, 200])
def test_random_words_in_random_pieces_as_if_wrapped_at_once(columns):
    rng = random.Random(columns)
    for _ in range(20):
        words = ["abcdefghijklmnopqrst"[: rng.randint(1, 19)] for _ in range(60)]
        text = "".join(word + rng.choice(["\n", " ", " ", " ", " "]) for word in words).strip()
        cuts = sorted(rng.sample(range(len(text)), 40))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        # A window of few lines: words move while the screen scrolls.
        assert shown(pieces, columns, lines=4) == wrapped(text, columns)


UNITS = [*"abcdéf 漢字。ｶ﷽❤ \n", "😀", "👩\u200d💻", "❤\ufe0f", "👍🏽", "🇩🇪", "word"]


def test_nothing_is_lost_or_doubled_whatever_the_width_of_characters():
    rng = random.Random(3)
    for _ in range(200):
        text = "".join(rng.choices(UNITS, k=120))
        # The emulator loses a wide character in the last column, which no terminal does.
        columns = rng.randint(6, 30)
        got = "".join(shown(list(text), columns, lines=10))
        plain = str.maketrans("", "", " \n\u0301\u200d\ufe0f")  # how cells keep those differs
        got, text = (unicodedata.normalize("NFD", one).translate(plain) for one in (got, text))
        assert got == text


def test_text_is_there_at_once():
    screen = Screen(20)
    to = printer(screen)
    for i, letter in enumerate("unbroken"):
        to.write(letter)
        assert screen.lines() == ["unbroken"[: i + 1]]


def test_the_window_changes_while_it_writes():
    screen = Screen(40)
    to = printer(screen)
    to.write("words of a line that is wide and then ")
    screen.resize(20)
    to.write("narrow words go on in the window")
    assert max(map(len, screen.lines())) <= 20
    assert screen.lines()[-2:] == ["narrow words go on", "in the window"]
    assert to.n_lines is None
    screen.resize(60)
    to.write(" and then it is wide again")
    assert screen.lines()[-1] == "in the window and then it is wide again"


def test_no_sequence_of_ours_where_nothing_moves():
    screen = Screen(10)
    printer(screen, wraps=False).write("words \x1b[2J go over the edge")
    assert "\x1b" not in screen.raw


def test_lines_are_counted():
    screen = Screen(10)
    to = printer(screen)
    to.write("some words that wrap\nand more")
    assert to.n_lines == len(screen.lines()) - 1
    to.fresh_line()
    assert to.n_lines == 0
    assert to.at_line_start
