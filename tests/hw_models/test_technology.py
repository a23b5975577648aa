"""Technologies: the built-in ones are complete, and a wrong file does not load."""

import re
from math import isfinite

import pytest

from hw_models import Range, Technology
from hw_models.technology import EVIDENCE, FOLDER, PER
from lowbit_dtp.storage import StorageError
from tests.conformance.cases import PROCESSES, WIRES

RIGHT = {
    "low": "1e-12",
    "typical": "2e-12",
    "high": "3e-12",
    "unit": '"joule"',
    "per": '"operation"',
    "source": '"A. Author, A Title, 2000, Table 1"',
    "evidence": '"published estimate"',
}
KEYS = "low, typical, high, unit, per, source, evidence, scope, capacity_bits"
JOULE_EVENTS = ", ".join(PER["joule"])


def toml(tmp_path, head='description = "A test."\n', **changes):
    """A technology file with one constant `add float32`, keys changed, or left out where None."""
    keys = {key: value for key, value in (RIGHT | changes).items() if value is not None}
    path = tmp_path / "mine.toml"
    path.write_text(head + '[constants."add float32"]\n' + "".join(f"{key} = {keys[key]}\n" for key in keys))
    return path


def test_processes_and_wires_are_kept_apart():
    for folder, names in (("processes", PROCESSES), ("wires", WIRES)):
        assert Technology.names(folder) == names
        assert sorted(path.name for path in (FOLDER / folder).iterdir()) == [f"{name}.toml" for name in names]


def test_technologies_there_are():
    assert Technology.names() == sorted(PROCESSES + WIRES)


@pytest.mark.parametrize("name", Technology.names())
def test_every_constant_says_how_it_is_known(name):
    technology = Technology.load(name)
    assert technology.name == name and technology.description and technology.constants
    for key, constant in technology.constants.items():
        assert (constant.technology, constant.name, constant.unit) == (name, key, "joule")
        assert constant.per in PER["joule"] and constant.evidence in EVIDENCE
        assert re.search(r"\b(19|20)\d\d\b", constant.source) or constant.source.startswith("Computed from this file")
        assert 0 < constant.low <= constant.typical <= constant.high and isfinite(constant.high)
        assert constant.high < 1e-8, "joules of one event, not picojoules"


@pytest.mark.parametrize("name", WIRES)
def test_a_wire_has_one_constant(name):
    assert list(Technology.load(name).constants) == ["wire"]


@pytest.mark.parametrize("name", PROCESSES)
def test_derived_constants_follow_from_the_published(name):
    def typical(constant):
        return technology.constants[constant].typical

    technology = Technology.load(name)
    multiply, add = typical("multiply float32"), typical("add float32")
    assert typical("divide float32") == pytest.approx(5 * multiply + 2 * add)
    assert typical("square-root float32") == pytest.approx(7 * multiply + 2 * add)
    for function in ("tanh float32", "exp float32"):
        assert typical(function) == pytest.approx(typical("sram 8 KiB") + multiply + add)
    assert typical("xnor-popcount") == pytest.approx(2 * typical("add integer"))


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("bits", [8, 32])
def test_integer_laws_hold_the_published_widths_in_their_range(name, bits):
    constants = Technology.load(name).constants
    add = constants["add integer"].range * bits
    multiply = constants["multiply integer, squared"].range * bits**2 + constants["multiply integer"].range * bits
    for law, operation in ((add, "add"), (multiply, "multiply")):
        published = constants[f"{operation} int{bits}"].typical
        assert law.low * 0.999 <= published <= law.high * 1.001  # the 45 nm fit is printed to four digits
        assert law.typical == pytest.approx(published, rel=0.2)


def test_memories_are_sorted_by_size():
    assert [memory.name for memory in Technology.load("45nm").memories()] == ["sram 8 KiB", "sram 32 KiB", "sram 1 MiB"]
    assert [memory.capacity_bits for memory in Technology.load("7nm").memories()] == [2**16, 2**18, 2**23]


def test_a_file_of_your_own_loads_by_its_path(tmp_path):
    path = toml(tmp_path)
    technology = Technology.load(str(path))
    assert technology.name == "mine"
    assert technology.constant("add float32", "a test").range == Range(1e-12, 2e-12, 3e-12)


def test_unknown_technology():
    with pytest.raises(ValueError) as error:
        Technology.load("3nm")
    there_are = "45nm, 7nm, board, chip-to-chip, interposer, on-die, serdes"
    assert str(error.value) == f"no technology '3nm'; there are: {there_are}"


def test_missing_constant(tmp_path):
    with pytest.raises(ValueError) as error:
        Technology.read(toml(tmp_path)).constant("wire", "link h1-h2")
    message = "technology 'mine' has no constant 'wire', which link h1-h2 needs; it has: add float32"
    assert str(error.value) == message


@pytest.mark.parametrize("key", [key for key in RIGHT if key not in ("low", "high")])
def test_missing_key(tmp_path, key):
    path = toml(tmp_path, **{key: None})
    with pytest.raises(StorageError) as error:
        Technology.read(path)
    assert str(error.value) == f"{path}: constant 'add float32' has no {key}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sauce": '"ketchup"'}, f" has an unknown key 'sauce'; a constant has: {KEYS}"),
        ({"source": '" "'}, ": source must name author, title, year and place, not ' '"),
        ({"source": "2014"}, ": source must name author, title, year and place, not 2014"),
        ({"low": '"1 pJ"'}, ": low must be a number, not '1 pJ'"),
        ({"low": "true"}, ": low must be a number, not True"),
        ({"low": "4e-12"}, ": a range needs 0 <= low <= typical <= high, not 4e-12, 2e-12, 3e-12"),
        ({"low": "-1.0"}, ": low must be 0 or more and finite, not -1.0"),
        ({"high": "inf"}, ": high must be 0 or more and finite, not inf"),
        ({"typical": "nan"}, ": typical must be 0 or more and finite, not nan"),
        ({"typical": "-2e-12", "low": None, "high": None}, ": typical must be 0 or more and finite, not -2e-12"),
        ({"typical": "1" + 399 * "0"}, ": typical is an integer of 400 digits, too large"),
        ({"unit": '"pJ"'}, ": unit 'pJ' is none of: joule, watt, per second"),
        ({"unit": "[1]"}, ": unit [1] is none of: joule, watt, per second"),
        ({"per": '"byte"'}, f": per 'byte' is none of: {JOULE_EVENTS}, which are for joule"),
        ({"scope": "3"}, ": scope must be text, what the figure covers, not 3"),
        ({"capacity_bits": "1" + 399 * "0"}, ": capacity_bits must be a whole number of bits, not one of 400 digits"),
        (
            {"capacity_bits": "64"},
            " is in joule per operation; a memory, which has capacity_bits, is in joule per 64-bit access",
        ),
        ({"evidence": '"hearsay"'}, f": evidence 'hearsay' is none of: {', '.join(EVIDENCE)}"),
        ({"capacity_bits": "0"}, ": capacity_bits must be a whole number of bits, not 0"),
        ({"capacity_bits": "1.5"}, ": capacity_bits must be a whole number of bits, not 1.5"),
    ],
)
def test_wrong_key(tmp_path, changes, message):
    path = toml(tmp_path, **changes)
    with pytest.raises(StorageError) as error:
        Technology.read(path)
    assert str(error.value) == f"{path}: constant 'add float32'{message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('description = "x"\nname = "y"\n', "unknown key 'name'; a technology has: description, flit_bits, constants"),
        ('description = "x"\n', 'has no constants; each is a table such as [constants."add float32"]'),
        ('description = "x"\n[constants]\nadd = 3\n', f"constant 'add' is 3; it must be a table of {KEYS}"),
        ("[constants.add]\n", "has no description"),
    ],
)
def test_wrong_file(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(StorageError) as error:
        Technology.read(path)
    assert str(error.value) == f"{path}: {message}"


def test_no_file_and_no_toml(tmp_path):
    path = tmp_path / "mine.toml"
    with pytest.raises(StorageError) as error:
        Technology.load(str(path))
    assert str(error.value) == f"{path}: no such file"
    path.write_text("low = \n")
    with pytest.raises(StorageError) as error:
        Technology.read(path)
    assert str(error.value) == f"{path}: not TOML (Invalid value (at line 1, column 7))"


def test_range_adds_multiplies_and_is_ordered():
    assert Range(1, 2, 3) + Range(10, 20, 30) == Range(11, 22, 33)
    assert Range(1, 2, 3) * 2 == Range(2, 4, 6)
    with pytest.raises(ValueError, match=r"^a range needs 0 <= low <= typical <= high, not 2, 1, 3$"):
        Range(2, 1, 3)
