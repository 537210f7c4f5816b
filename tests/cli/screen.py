"""A program in a pseudo-terminal: keys in, the screen that a user would see out."""

from __future__ import annotations

import copy
import os
import termios
import time

import pexpect
import pyte

PATIENCE_S = 120
OURS = {"NO_COLOR", "TERM", "COLUMNS", "LINES"}
OURS |= {"TMUX", "DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION", "EDITOR", "VISUAL"}


class _Screen(pyte.HistoryScreen):
    """A screen with what pyte has not: answers, faint text (as if it blinked), a second screen."""

    send = None

    def write_process_input(self, data):
        """Answer when asked where the cursor is."""
        self.send(data.encode())

    def select_graphic_rendition(self, *attrs, **more):
        """Note faint text; a 2 in a colour is no attribute, and private ones are none at all."""
        if more:
            return
        out, rest = [], list(attrs)
        while rest:
            code = rest.pop(0)
            if code in (38, 48) and rest:
                n = {5: 2, 2: 4}.get(rest[0], 0)
                out += [code, *rest[:n]]
                del rest[:n]
            else:
                out += {2: [5], 22: [22, 25]}.get(code, [code])
        super().select_graphic_rendition(*out)

    def set_mode(self, *modes, private=False):
        """Give a program that takes the whole screen a second one."""
        if private and 1049 in modes:
            self._first = copy.deepcopy((self.buffer, self.cursor, self.history))
        super().set_mode(*modes, private=private)

    def reset_mode(self, *modes, private=False):
        """Return to the first screen."""
        if private and 1049 in modes and self._first is not None:
            self.buffer, self.cursor, self.history = self._first
            self._first = None
        super().reset_mode(*modes, private=private)

    _first = None


class Terminal:
    """Runs a command in a terminal of some size; `raw` are all the bytes it was sent."""

    def __init__(self, command, *, env, rows=24, columns=80):
        self.child = pexpect.spawn(
            command[0],
            command[1:],
            env={"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **env},
            dimensions=(rows, columns),
        )
        self.child.delaybeforesend = None
        self.modes_before = self.modes()
        self.screen = _Screen(columns, rows, history=1000)
        self.screen.send = self.child.send
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""

    def type(self, text):
        """Press keys."""
        self.child.send(text)

    def resize(self, rows, columns):
        """Give the window another size."""
        self.screen.resize(rows, columns)
        self.child.setwinsize(rows, columns)

    def lines(self):
        """Return what is on the screen, and what has gone over its top."""
        gone = [
            "".join(line[x].data for x in range(self.screen.columns))
            for line in self.screen.history.top
        ]
        return [line.rstrip() for line in [*gone, *self.screen.display]]

    def text(self):
        """Return the lines as one text without those that are blank at its end."""
        return "\n".join(self.lines()).rstrip()

    def wait(self, *wanted, timeout_s=PATIENCE_S, since=""):
        """Read until all of `wanted` are on the screen behind `since`; return its text."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            self._read()
            seen = self.text().rpartition(since)[2] if since else self.text()
            if all(text in seen for text in wanted):
                return self.text()
        raise AssertionError(f"{wanted!r} did not appear in:\n{self.text()}")

    def wait_for_prompt(self, timeout_s=PATIENCE_S):
        """Read until the last written line is an empty prompt."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            self._read()
            cursor = self.screen.cursor
            if self.screen.display[cursor.y].rstrip() == ">" and cursor.x == 2:
                return self.text()
        raise AssertionError(f"no prompt in:\n{self.text()}")

    def wait_for_exit(self, timeout_s=PATIENCE_S):
        """Read to the end; return the exit status, or minus the signal."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until and self._read():
            pass
        self.modes_after = self.modes()
        self.child.close()
        return (
            self.child.exitstatus if self.child.exitstatus is not None else -self.child.signalstatus
        )

    def echoes(self):
        """Return whether the terminal is as a shell wants it: lines, echo and signals on."""
        flags = termios.tcgetattr(self.child.fileno())[3]
        wanted = termios.ECHO | termios.ICANON | termios.ISIG
        return flags & wanted == wanted

    def modes(self):
        """Return all that `stty -a` shows but the size."""
        return termios.tcgetattr(self.child.fileno())

    def close(self):
        """End the program, if it has not ended."""
        self.child.close(force=True)

    def _read(self):
        try:
            data = self.child.read_nonblocking(65536, timeout=0.05)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw += data
        self.stream.feed(data)
        return True


def environment(**more):
    """Return the environment without what would change how a terminal looks, or what copies."""
    return {**{k: v for k, v in os.environ.items() if k not in OURS}, **more}
