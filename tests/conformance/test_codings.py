"""Every coding, for any format, width and sequence of messages: nothing is lost, and counted bits are those sent."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowbit_dtp.codings import CODINGS, Coding, symbols_of
from lowbit_dtp.formats import Format, binary
from tests.conformance import cases

BITS = {name: CODINGS[name] for name in cases.CODINGS}
NARROW = [fmt for fmt in cases.FORMATS if fmt.bits <= 8]
WIDE = [fmt for fmt in cases.FORMATS if fmt.bits > 8]


def test_every_coding_has_a_case() -> None:
    assert list(cases.CODINGS) == list(CODINGS)


@pytest.mark.parametrize("name", cases.CODINGS)
def test_bits_worked_out_by_hand(name: str) -> None:
    exchange = np.zeros((2, 1, 100), np.uint8)
    exchange[:, 0, [0, 50, 99]] = 1
    exchange[1, 0, 7] = 1
    assert tuple(CODINGS[name].bits(exchange, binary)[:, 0]) == cases.CODINGS[name]


@st.composite
def exchanges(draw: Any, fmt: Format) -> np.ndarray:
    """Codes [words, messages, codes in a row]: zeros with some numbers, and words with some of the numbers changed."""
    words, messages, neurons = (draw(st.integers(1, most)) for most in (3, 4, 70))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    often, changed = draw(st.sampled_from([0, 0.03, 0.5, 1])), draw(st.sampled_from([0, 0.02, 0.5]))
    x = random.normal(0, min(fmt.largest, 4.0), (words, messages, neurons)) * (random.random((words, 1, 1)) < often)
    x *= random.random(x.shape) < often
    for i in range(1, words):
        x[i] = np.where(random.random(x[i].shape) < changed, x[i], x[i - 1])
    return fmt.encode(x, np.full(x.shape, 0.5) if fmt.stochastic else None)


def check(coding: Coding, exchange: np.ndarray, fmt: Format) -> None:
    sent = coding.encode(exchange, fmt)
    assert set(np.unique(sent)) <= {0, 1}
    bits = coding.bits(exchange, fmt)
    assert bits.shape == exchange.shape[:2] and bits.sum() == len(sent)
    for i, of_message in enumerate(bits.T):  # each message by itself
        assert len(coding.encode(exchange[:, i : i + 1], fmt)) == of_message.sum()
    for words in range(1, len(exchange)):  # and each word
        if coding.name != "silence":
            assert len(coding.encode(exchange[:words], fmt)) == bits[:words].sum()
    arrived = coding.decode(sent, fmt, exchange.shape)
    assert arrived.dtype == exchange.dtype
    np.testing.assert_array_equal(arrived, coding.arrived(exchange, fmt))
    if coding.name != "silence":
        np.testing.assert_array_equal(arrived, exchange)
    else:
        check_silence(arrived, exchange)


def check_silence(arrived: np.ndarray, exchange: np.ndarray) -> None:
    """Words that are all equal are still so; everything else is as it was."""
    silent = (exchange == exchange[0]).all((0, -1)) if len(exchange) > 1 else np.zeros(exchange.shape[1], bool)
    np.testing.assert_array_equal(arrived[:, ~silent], exchange[:, ~silent])
    np.testing.assert_array_equal(arrived[:, silent], np.broadcast_to(arrived[:1, silent], arrived[:, silent].shape))


@pytest.mark.parametrize("name", cases.CODINGS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_nothing_is_lost_and_bits_are_counted(name: str, data: st.DataObject) -> None:
    fmt = data.draw(st.sampled_from(NARROW))
    check(CODINGS[name], data.draw(exchanges(fmt)), fmt)


@pytest.mark.parametrize("name", cases.CODINGS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_of_wide_formats(name: str, data: st.DataObject) -> None:
    fmt = data.draw(st.sampled_from(WIDE))
    check(CODINGS[name], data.draw(exchanges(fmt)), fmt)


@pytest.mark.parametrize("fmt", cases.FORMATS, ids=str)
def test_of_every_format(fmt: Format) -> None:
    random = np.random.default_rng(0)
    x = random.normal(0, 0.5, (2, 3, 33)) * (random.random((2, 3, 33)) < 0.3)
    exchange = fmt.encode(x, np.full(x.shape, 0.5) if fmt.stochastic else None)
    for coding in CODINGS.values():
        check(coding, exchange, fmt)


@pytest.mark.parametrize("fmt", cases.FORMATS, ids=str)
def test_plain_bits_are_those_of_the_ledger(fmt: Format) -> None:
    row = fmt.codes_in_row(33)
    bits = CODINGS["plain"].bits(np.zeros((1, 2, row), fmt.code_dtype), fmt)
    assert bits.tolist() == [[33 * fmt.bits + fmt.scale_bits(33)] * 2]


@pytest.mark.parametrize("fmt", NARROW, ids=str)
def test_differences_of_all_codes(fmt: Format) -> None:
    """Every code that can be sent is so much ahead of every other, once each."""
    symbols, element = symbols_of(fmt), getattr(fmt, "element", fmt)
    codes = np.setdiff1d(np.arange(symbols.number + (symbols.unused is not None)), [symbols.unused])
    codes = codes.astype(element.code_dtype)
    ahead = symbols.difference(codes[:, None], codes[None])
    assert (np.sort(ahead, 0) == np.arange(symbols.number)[:, None]).all() and not ahead.diagonal().any()
    again = symbols.ahead(np.broadcast_to(codes, ahead.shape), ahead)
    np.testing.assert_array_equal(again, np.broadcast_to(codes[:, None], ahead.shape))
    assert symbols.number - 1 <= 2**symbols.value_bits


@pytest.mark.parametrize("name", cases.CODINGS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_other_bits_are_refused_or_decoded(name: str, data: st.DataObject) -> None:
    fmt = data.draw(st.sampled_from(NARROW))
    exchange = data.draw(exchanges(fmt))
    sent = CODINGS[name].encode(exchange, fmt)
    cut = data.draw(st.integers(0, len(sent)))
    flipped = data.draw(st.lists(st.integers(0, max(len(sent) - 1, 0)), max_size=3))
    damaged = sent.copy()
    damaged[flipped] ^= 1
    damaged = damaged[:cut] if data.draw(st.booleans()) else np.append(damaged, np.uint8(1))
    try:
        assert CODINGS[name].decode(damaged, fmt, exchange.shape).shape == exchange.shape
    except ValueError as error:
        assert str(error).startswith(f"coding {name}: the bits are not those of an exchange: ")
