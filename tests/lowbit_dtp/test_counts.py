"""Counts and wires: repeated counts equal single ones, and words stay in the same arrays."""

import numpy as np
import pytest

from lowbit_dtp.counts import Counts, by_member, total
from lowbit_dtp.events import Access, Direction, MessageType, Work
from lowbit_dtp.wires import Wires

MESSAGE = MessageType("h1-h2", Direction.FORWARD, "activations", "binary", 1, 4)
ADD, MULTIPLY = (Work("h1", "activations", operation, "float32") for operation in ("add", "multiply"))
READ = Access("h1", "weight", "read", "float32", 32, 640)
WIRE = ("h1-h2", Direction.FORWARD)


def step(counts: Counts) -> None:
    counts.crossed(MESSAGE, 3, 0, 0)
    counts.worked(ADD, 5)
    counts.worked(MULTIPLY, 7)
    counts.accessed(READ, 20)


def test_repetitions_add_up_as_if_counted_each_time():
    once, repeated, counted = Counts(), Counts(), Counts()
    step(once)
    for _ in range(4):
        step(counted)
    repeated.repeat(once)
    repeated.repeat(once, 3)
    assert not repeated.work
    repeated.settle()
    assert (repeated.traffic, repeated.work, repeated.accesses) == (counted.traffic, counted.work, counted.accesses)
    assert repeated.settle().work == counted.work  # not added again


def test_repetitions_of_repetitions():
    once, twice, six = Counts(), Counts(), Counts()
    once.worked(ADD, 5)
    twice.repeat(once, 2)
    six.repeat(twice, 3)
    assert six.settle().work == {ADD: 30}


def test_unknown_operation():
    known = "multiply-accumulate, multiply, add, divide, square-root, tanh, exp"
    with pytest.raises(ValueError, match=f"^no operation 'subtract'; there are: {known}$"):
        Counts().worked(Work("h1", "activations", "subtract", "float32"), 1)


def test_counts_of_members():
    assert total(np.array([3, 4])) == 7 and total(7) == 7
    assert by_member(np.array([3, 4]), 2) == [3, 4]
    assert by_member(0, 2) == [0, 0]
    assert len(by_member(np.array(5), 3)) == 3


def test_words_are_written_over_the_last_while_in_place():
    first, second = np.array([1, 2], np.uint64), np.array([3, 4], np.uint64)
    wires = Wires({WIRE: first})
    with wires.in_place():
        wires[WIRE] = second
        assert wires[WIRE] is second
    assert wires[WIRE] is first and first.tolist() == [3, 4]


@pytest.mark.parametrize("word", [np.array([5], np.uint64), np.array([5, 6], np.uint8)], ids=["shape", "dtype"])
def test_another_kind_of_word_takes_the_place(word):
    first = np.array([1, 2], np.uint64)
    wires = Wires({WIRE: first})
    with wires.in_place():
        wires[WIRE] = word
    assert wires[WIRE] is word and first.tolist() == [1, 2]


def test_each_word():
    wires = Wires({WIRE: np.array([1, 2])})
    doubled = wires.each(lambda word: 2 * word)
    assert isinstance(doubled, Wires) and doubled[WIRE].tolist() == [2, 4] and wires[WIRE].tolist() == [1, 2]
