import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptkit.checkpoints.strict_json import MAX_DEPTH, key_lines, parse, shown
from gptkit.errors import CheckpointError

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(), VALUES))
def test_reads_what_json_writes(value):
    assert parse(json.dumps(value).encode(), "x.json") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "x.json:1: key 'a' is given twice"),
        ('{"a": {\n"b": 1,\n"b": 2}}', "x.json:3: key 'b' is given twice"),
        ('{"é": 1,\n"\\u00e9": 2}', "x.json: key 'é' is given twice"),
        ('{"a": Infinity}', "x.json: Infinity is not a JSON number"),
        ('{"a": 01}', "x.json:1: not JSON: Expecting ',' delimiter"),
        ('{"a": 1} x', "x.json:1: not JSON: Extra data"),
        ("1", "x.json holds a whole number, not an object"),
        ("null", "x.json holds null, not an object"),
        ('"text"', "x.json holds text, not an object"),
    ],
)
def test_says_where_and_what(text, message):
    with pytest.raises(CheckpointError) as caught:
        parse(text.encode(), "x.json")
    assert str(caught.value).startswith(message)


def test_depth_has_a_limit():
    def nested(depth):
        return ('{"a":' + "[" * (depth - 1) + "]" * (depth - 1) + "}").encode()

    assert parse(nested(MAX_DEPTH), "x.json")
    with pytest.raises(CheckpointError, match="nested too deeply"):
        parse(nested(MAX_DEPTH + 1), "x.json")


def test_lines_of_keys_are_those_of_their_first_places():
    text = b'{"a": 1,\n "b": {"c" :\n 2, "a": 3}}'
    assert key_lines(text) == {"a": 1, "b": 2, "c": 2}


def test_text_from_a_file_is_shown_on_one_short_line():
    assert shown("h.0.ln_1") == "h.0.ln_1"
    assert shown("\x1b[31m\n") == "\\x1b[31m\\n"
    assert len(shown("x" * 10**6)) < 110
