"""YAML: documents by hand, what is refused, and that everything written is read again."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_models.yaml import dump, load

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**17), 10**17),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
)
VALUES = st.recursive(
    SCALARS, lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(), part, max_size=3), max_leaves=10
)


@settings(max_examples=50)
@given(st.dictionaries(st.text(), VALUES, max_size=4).filter(bool))
def test_what_is_written_is_read_again(value):
    assert load(dump(value)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [  # as PyYAML 6.0 reads them, but for 1e-09, which is a number since YAML 1.2
        ("", None),
        ("# only this\n", None),
        ("---\na: 1\n", {"a": 1}),
        ("a:\n- 1\n- 2\nb: 3\n", {"a": [1, 2], "b": 3}),
        ("a:\n  - 1\n  -\n  - b: 2\n    c: 3\n", {"a": [1, None, {"b": 2, "c": 3}]}),
        ("- - 1\n  - 2\n-\n  a: 1\n", [[1, 2], {"a": 1}]),
        ("a: {b: 1, c: [x y, 'd, e'], f: {}}\n", {"a": {"b": 1, "c": ["x y", "d, e"], "f": {}}}),
        ("a: 'it''s' # it is\nb: \"x\\n\\u00e9\\xe9\"\nc: a#b\n", {"a": "it's", "b": "x\néé", "c": "a#b"}),
        (
            "a: 1e-09\nb: 1.\nc: .5\nd: -3\ne: 0.3.1\nf: ~\ng: True\n",
            {"a": 1e-9, "b": 1.0, "c": 0.5, "d": -3, "e": "0.3.1", "f": None, "g": True},
        ),
        ("x.PE[0..1].mac: http://a\n'k: y': - 1\n-z: 2\n", {"x.PE[0..1].mac": "http://a", "k: y": "- 1", "-z": 2}),
        ("5\n", 5),
    ],
)
def test_documents(text, value):
    assert load(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n\tb: 2\n", "line 2: indented by a tab; indent by spaces"),
        ("a: 1\n  b: 2\n", "line 2: 'b: 2' is not indented as the lines above it"),
        ("a: 1\nb\n", "line 2: 'b' is not indented as the lines above it"),
        ("a: 1\na: 2\n", "line 2: key 'a' is there twice"),
        ("a: {b: 1, b: 2}\n", "line 1: key 'b' is there twice"),
        ("a: |\n  text\n", "line 1: '|': anchors, tags and texts of several lines are not read"),
        ("a: &x 1\n", "line 1: '&x 1': anchors, tags and texts of several lines are not read"),
        ("a: !!int 1\n", "line 1: '!!int 1': anchors, tags and texts of several lines are not read"),
        ("? a\n", "line 1: '? a': anchors, tags and texts of several lines are not read"),
        ("a: 'b\n", "line 1: 'b is not a text in single quotes"),
        ('a: "b\n', 'line 1: "b is not a text in double quotes'),
        ("a: [1, 2\n", "line 1: '[1, 2' has no closing ]"),
        ("a: {b}\n", "line 1: 'b}' is not KEY: VALUE and a closing bracket"),
        ("a: [1] 2\n", "line 1: '2' after the closing bracket"),
        ("a: " + "[" * 60 + "\n", "line 1: nested more than 50 levels deep"),
        ("\n".join(" " * i + "a:" for i in range(60)), "line 52: nested more than 50 levels deep"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load(text)
