"""Technologies: the built-in ones are complete, and a wrong file does not load."""

import random
import re
import warnings
from dataclasses import replace
from itertools import pairwise
from math import isfinite

import pytest

from hw_models import Range, Technology
from hw_models.compute import work_terms
from hw_models.technology import BANDS, EVIDENCE, FOLDER, LANDAUER, MESSAGE_EVENTS, MOST, PER, UNITS
from lowbit_dtp.events import OPERATIONS, Work
from lowbit_dtp.storage import StorageError
from tests.conformance.cases import MACHINES, PROCESSES, WIRES

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
ONE = '[constants."add float32"]\n' + "".join(f"{key} = {value}\n" for key, value in RIGHT.items())


def toml(tmp_path, head='description = "A test."\n', name="add float32", **changes):
    """A technology file with one constant, keys changed, or left out where None."""
    keys = {key: value for key, value in (RIGHT | changes).items() if value is not None}
    path = tmp_path / "mine.toml"
    path.write_text(head + f'[constants."{name}"]\n' + "".join(f"{key} = {keys[key]}\n" for key in keys))
    return path


def test_processes_wires_and_machines_are_kept_apart():
    for folder, names in (("processes", PROCESSES), ("wires", WIRES), ("machines", MACHINES)):
        assert Technology.names(folder) == names
        assert sorted(path.name for path in (FOLDER / folder).iterdir()) == [f"{name}.toml" for name in names]


def test_technologies_there_are():
    assert Technology.names() == sorted(PROCESSES + WIRES + MACHINES)
    with pytest.raises(ValueError, match=r"^no folder of technologies 'wire'; there are: machines, processes, wires$"):
        Technology.names("wire")


@pytest.mark.parametrize("name", Technology.names())
def test_every_constant_says_how_it_is_known(name):
    technology = Technology.load(name)
    assert technology.name == name and technology.description and technology.constants
    for key, constant in technology.constants.items():
        assert (constant.technology, constant.name) == (name, key)
        assert constant.per in PER[constant.unit] and constant.evidence in EVIDENCE and constant.scope
        assert constant.evidence != "assumed", "a value of ours has a source"
        assert re.search(r"\b(19|20)\d\d\b", constant.source) or constant.source.startswith("Computed from this file")
        assert 0 < constant.low <= constant.typical <= constant.high and isfinite(constant.high)
        assert constant.low < constant.high, "one source is no certainty"


@pytest.mark.parametrize("name", Technology.names())
def test_our_values_are_within_physics(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Technology.load(name)


@pytest.mark.parametrize("name", WIRES)
def test_a_wire_is_made_of_events_of_messages(name):
    assert all(constant.per in MESSAGE_EVENTS for constant in Technology.load(name).constants.values())


@pytest.mark.parametrize("name", MACHINES)
def test_a_machine_has_the_cost_of_a_synaptic_operation(name):
    technology = Technology.load(name)
    assert technology.constants["synaptic operation"].per == "synaptic operation"
    assert isinstance(technology.event_driven, bool)


def test_truenorth_is_a_slope_and_what_is_left():
    """68 and 94 mW at 11.58 and 95.93 Hz, 2^20 neurons of 128 active synapses; between them 71 mW at 20.07 Hz."""
    machine = Technology.load("truenorth")
    slope, static = machine.constants["synaptic operation"].typical, machine.constants["static"].typical
    for hertz, watts in ((11.58, 0.068), (20.07, 0.071), (95.93, 0.094)):
        assert static + slope * hertz * 128 * 2**20 == pytest.approx(watts, rel=0.01)


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
        assert technology.constants[function].low == pytest.approx(typical("sram 8 KiB") / 2)
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
        assert law.typical == pytest.approx(published, rel=0.3)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("end", ["low", "typical", "high"])
def test_wider_multipliers_never_cost_less(name, end):
    technology = Technology.load(name)
    squared, linear = (getattr(technology.constants[f"multiply integer{term}"], end) for term in (", squared", ""))
    costs = []
    for bits in range(1, 33):
        terms = work_terms(Work("h1", "", "multiply", f"ufixed({bits},1)"), 1, technology, 32)
        costs.append(sum(getattr(term.joules, end) for term in terms))
    costs += [squared * bits**2 + linear * bits for bits in range(33, 65)]  # no format is as wide
    assert all(narrow < wide for narrow, wide in pairwise(costs)), costs


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_has_wires_of_its_own(name):
    """Keckler 2011: 240 fJ a transition a mm at 40 nm; 310 pJ for 256 random bits over 10 mm is half of that a bit."""
    [wire] = Technology.load(name).wire("on-die")
    fallback = Technology.load("on-die").constants["wire"]
    assert wire.name == "wire on-die" and wire.per == fallback.per == "transition and metre"
    assert Technology.load(name).wire("on") == [] == Technology.load(name).wire("board")
    assert Technology.load("45nm").wire("on-die")[0].typical / 2 == pytest.approx(310e-12 / 256 / 0.01, rel=0.01)
    assert Technology.load("7nm").wire("on-die")[0].typical < Technology.load("45nm").wire("on-die")[0].typical


def test_a_whole_access_of_hbm2_is_its_parts():
    """O'Connor et al. 2017: activation, movement on the die, interface, and error correction, in pJ a bit."""
    access = Technology.load("7nm").constants["hbm2 access"].typical
    assert access == pytest.approx(64 * 3.92e-12, rel=1e-3) and 1.21 + 2.24 + 0.3 < 3.92


def test_links_that_reach_further_cost_more():
    def wire(name):
        return Technology.load(name).constants["wire"].range

    near_to_far = [wire(name) for name in ("interposer", "chip-to-chip", "board")]
    for near, far in pairwise(near_to_far):
        assert near.low < far.low and near.typical < far.typical and near.high < far.high


def test_the_high_of_binary_products_holds_the_silicon():
    """BrainTTA: 35 fJ an operation; XNORBIN: 95 TOp/s/W; both of two operations a multiply-accumulate."""
    for name in PROCESSES:
        high = Technology.load(name).constants["xnor-popcount"].high
        assert high >= 2 * 35e-15 and high >= 2 / 95e12


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
    there_are = (
        "45nm, 7nm, arm, board, braintta, chip-to-chip, cpu, finn, gpu, interposer, loihi, mesh, on-die, radio, "
        "serdes, spinnaker, spinnaker2, truenorth, xnorbin"
    )
    assert str(error.value) == f"no technology '3nm'; there are: {there_are}"
    with pytest.raises(ValueError) as error:
        Technology.load("")
    assert str(error.value) == f"no technology ''; there are: {there_are}"


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


# --- unit and event, by name


def joules(events):
    return f"joule per {' or '.join(events)}"


@pytest.mark.parametrize(
    ("name", "unit", "per", "right"),
    [
        ("multiply float32", "joule", "transition and metre", joules(["operation"])),
        ("add float32", "joule", "operation and bit", joules(["operation"])),
        ("tanh fixed(8,1)", "joule", "bit", joules(["operation"])),
        ("xnor-popcount", "joule", "operation and bit", joules(["operation"])),
        ("add integer", "joule", "operation", joules(["operation and bit"])),
        ("multiply integer", "joule", "operation and squared bit", joules(["operation and bit"])),
        ("multiply integer, squared", "joule", "operation and bit", joules(["operation and squared bit"])),
        ("add float32", "watt", "chip", joules(["operation"])),
        ("synaptic operation", "joule", "event", joules(["synaptic operation"])),
        ("neuron update, inactive", "joule", "synaptic operation", joules(["neuron update"])),
        ("learning update", "joule", "operation", joules(["learning update"])),
        ("wire on-die", "joule", "64-bit access", joules(MESSAGE_EVENTS)),
        ("wire on-die", "joule", "operation", joules(MESSAGE_EVENTS)),
        ("wire on-die", "watt", "link", joules(MESSAGE_EVENTS)),
        ("router", "joule", "operation", joules(["64-bit access", *MESSAGE_EVENTS])),
        ("throughput add float32", "joule", "operation", "operation or bit or 64-bit access or flit or event or "
         "synaptic operation or neuron update or learning update per second"),
        ("throughput add float32", "per second", "flit", "operation per second"),
        ("throughput add integer", "per second", "bit", "operation per second"),
        ("throughput synaptic operation", "per second", "neuron update", "synaptic operation per second"),
    ],
)  # fmt: skip
def test_a_name_has_its_unit_and_event(tmp_path, name, unit, per, right):
    path = toml(tmp_path, name=name, unit=f'"{unit}"', per=f'"{per}"')
    with pytest.raises(StorageError) as error:
        Technology.read(path)
    given = f"{per} per second" if unit == "per second" else f"{unit} per {per}"
    assert str(error.value) == f"{path}: constant {name!r} is in {given}; a constant of this name is in {right}"


def test_every_operation_is_known_by_its_name(tmp_path):
    for operation in OPERATIONS:
        for number, per in (("float32", "operation"), ("integer", "operation and bit")):
            path = toml(tmp_path, name=f"{operation} {number}", per=f'"{per}"')
            assert Technology.read(path).constants[f"{operation} {number}"].per == per


@pytest.mark.parametrize(
    ("name", "unit", "per", "value"),
    [
        ("static", "watt", "chip", "0.1"),
        ("leakage of sram", "watt", "memory bit", "1e-9"),
        ("throughput dram", "per second", "bit", "1e11"),
        ("throughput multiply float32", "per second", "operation", "1e9"),
        ("header", "joule", "message", "1e-10"),
        ("spike", "joule", "event", "1e-12"),
        ("my memory", "joule", "64-bit access", "1e-12"),
    ],
)
def test_names_that_are_free(tmp_path, name, unit, per, value):
    path = toml(tmp_path, name=name, unit=f'"{unit}"', per=f'"{per}"', typical=value, low=None, high=None)
    constant = Technology.read(path).constants[name]
    assert (constant.unit, constant.per, constant.typical) == (unit, per, float(value))


def test_a_memory_of_a_process_is_per_access(tmp_path):
    path = toml(tmp_path)
    rest = "".join(f"{key} = {value}\n" for key, value in (RIGHT | {"per": '"bit"'}).items())
    path.write_text(path.read_text() + "[constants.dram]\n" + rest)
    with pytest.raises(StorageError) as error:
        Technology.read(path)
    assert str(error.value) == (
        f"{path}: constant 'dram' is in joule per bit; a constant of this name is in joule per 64-bit access"
    )


def test_throughput_is_named_so_and_more_than_nothing(tmp_path):
    path = toml(tmp_path, name="speed", unit='"per second"')
    with pytest.raises(StorageError) as error:
        Technology.read(path)
    message = "constant 'speed' is per second; the name of such a constant is 'throughput NAME'"
    assert str(error.value) == f"{path}: {message}"
    path = toml(tmp_path, name="throughput bus", unit='"per second"', per='"bit"', low="0")
    with pytest.raises(StorageError) as error:
        Technology.read(path)
    assert str(error.value) == f"{path}: constant 'throughput bus': low must be more than 0 bits per second"


# --- bands


@pytest.mark.parametrize("evidence", EVIDENCE)
@pytest.mark.parametrize("given", [{}, {"low": "2e-12"}, {"low": "2e-12", "high": "2e-12"}])
def test_one_figure_takes_the_band_of_its_evidence(tmp_path, evidence, given):
    path = toml(tmp_path, **({"low": None, "high": None} | given), evidence=f'"{evidence}"')
    constant = Technology.read(path).constants["add float32"]
    assert constant.range == Range(2e-12 / BANDS[evidence], 2e-12, 2e-12 * BANDS[evidence])
    assert constant.assumed_band == constant.as_dict()["assumed_band"] == (evidence != "assumed")


def test_a_range_of_the_source_is_kept(tmp_path):
    constant = Technology.read(toml(tmp_path)).constants["add float32"]
    assert constant.range == Range(1e-12, 2e-12, 3e-12) and not constant.assumed_band
    half = Technology.read(toml(tmp_path, high=None)).constants["add float32"]
    assert half.range == Range(1e-12, 2e-12, 2e-12 * 1.5) and half.assumed_band
    degenerate = Technology.read(toml(tmp_path, low="2e-12")).constants["add float32"]
    assert degenerate.range == Range(2e-12, 2e-12, 3e-12) and not degenerate.assumed_band


def test_bands_widen_as_evidence_weakens():
    measured = list(BANDS.values())[:-1]
    assert measured == sorted(measured) and measured[0] > 1 and BANDS["assumed"] == 1
    assert UNITS == ("joule", "watt", "per second") and MOST.keys() == PER.keys()
    assert all(MOST[unit].keys() == set(PER[unit]) for unit in UNITS)


def test_constants_of_one_quantity():
    """All sizes of one memory, and both terms of the law of a multiplier, are off by one factor."""
    constants = Technology.load("45nm").constants
    quantities = {name: constant.quantity for name, constant in constants.items()}
    assert {quantities[f"sram {size}"] for size in ("8 KiB", "32 KiB", "1 MiB")} == {"45nm/sram"}
    wide = replace(constants["sram 1 MiB"], name="sram 1.234e+04 KiB")
    assert wide.quantity == replace(wide, name="sram").quantity == "45nm/sram"
    assert quantities["multiply integer"] == quantities["multiply integer, squared"] == "45nm/multiply integer"
    assert quantities["multiply int8"] == "45nm/multiply int8" and quantities["dram"] == "45nm/dram"
    assert Technology.load("board").constants["wire"].quantity == "board/wire"


def test_as_dict_has_what_is_known(tmp_path):
    constant = Technology.read(toml(tmp_path)).constants["add float32"]
    assert constant.as_dict() == {
        "technology": "mine",
        "name": "add float32",
        "low": 1e-12,
        "typical": 2e-12,
        "high": 3e-12,
        "unit": "joule",
        "per": "operation",
        "source": "A. Author, A Title, 2000, Table 1",
        "evidence": "published estimate",
        "assumed_band": False,
    }
    sram = Technology.load("45nm").constants["sram 8 KiB"].as_dict()
    assert sram["capacity_bits"] == 65536 and sram["scope"] and sram["assumed_band"]


# --- beyond physics


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"typical": "0.9"}, "typical is 0.9 joule per operation, above 1e-06, more than any machine known"),
        (
            {"typical": "1e-12", "high": "2e-6"},
            "high is 2e-06 joule per operation, above 1e-06, more than any machine known",
        ),
        ({"typical": "1e-21"}, "typical is 1e-21 joule per operation, below kT ln 2 at 300 K, 2.87e-21"),
        ({"name": "static", "unit": '"watt"', "per": '"chip"', "typical": "1e6"},
         "typical is 1e+06 watt per chip, above 100000, more than any machine known"),
        ({"name": "throughput link", "unit": '"per second"', "per": '"bit"', "typical": "1e19"},
         "typical is 1e+19 bit per second, above 1e+18, more than any machine known"),
    ],
)  # fmt: skip
def test_values_beyond_physics_warn(tmp_path, changes, message):
    path = toml(tmp_path, **({"low": None, "high": None} | changes))
    with pytest.warns(UserWarning) as warned:
        Technology.read(path)
    name = changes.get("name", "add float32")
    assert [str(each.message) for each in warned] == [f"{path}: constant {name!r}: {message}; check its unit"]


@pytest.mark.parametrize("typical", ["0", "1e-20", "9e-7"])
def test_values_within_physics_do_not_warn(tmp_path, typical):
    path = toml(tmp_path, typical=typical, low=typical, high=typical, evidence='"assumed"')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Technology.read(path).constants["add float32"].typical == float(typical)
    assert pytest.approx(2.871e-21, rel=1e-3) == LANDAUER


# --- whole files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('description = "x"\nname = "y"\n', "unknown key 'name'; a technology has: {TOP}"),
        ('description = "x"\nevent_driven = 1\n' + ONE, "event_driven must be true or false, not 1"),
        ('description = "x"\nflit_bits = 0\n' + ONE, "flit_bits must be a whole number of bits, not 0"),
        ('description = "x"\n' + ONE.replace("operation", "flit").replace("add float32", "router"),
         "constant 'router' is per flit, so the file needs flit_bits"),
        ('description = "x"\n', 'has no constants; each is a table such as [constants."add float32"]'),
        ('description = "x"\n[constants]\nadd = 3\n', f"constant 'add' is 3; it must be a table of {KEYS}"),
        ("[constants.add]\n", "has no description"),
    ],
)  # fmt: skip
def test_wrong_file(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(StorageError) as error:
        Technology.read(path)
    assert str(error.value) == f"{path}: {message}".replace("{TOP}", "description, flit_bits, event_driven, constants")


def test_a_byte_order_mark_is_no_harm(tmp_path):
    path = toml(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert Technology.read(path).description == "A test."


def test_files_that_cannot_be_read(tmp_path):
    folder = tmp_path / "folder.toml"
    folder.mkdir()
    deep, long = tmp_path / "deep.toml", tmp_path / "long.toml"
    deep.write_text("a = " + "[" * 9999)
    long.write_text("a = 1" + "0" * 9999)
    for path, message in (
        (folder, "cannot be read (Is a directory)"),
        (deep, "not TOML (nested too deeply)"),
        (long, "not TOML (Exceeds the limit (4300 digits) for integer string conversion: value has 10000 digits; use "
         "sys.set_int_max_str_digits() to increase the limit)"),
    ):  # fmt: skip
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


# --- damaged files

VALUES = ["-1", "1e400", "nan", "true", '""', '" "', "[]", "{}", "2020-01-01", "1" + 400 * "0", '"watt"', '"bit"', "3"]


def damaged(text, random):
    """A technology file with one key, value, type, line or byte changed."""
    lines = text.splitlines()
    at = random.randrange(len(lines))
    match random.randrange(6):
        case 0:  # another value, mostly of another type
            key = lines[at].partition("=")[0]
            lines[at] = f"{key}= {random.choice(VALUES)}"
        case 1:  # another key
            lines[at] = random.choice(["", "un", "constants."]) + lines[at][random.randrange(3) :]
        case 2:
            del lines[at]
        case 3:
            lines.insert(at, lines[random.randrange(len(lines))])
        case 4:  # another name, so another unit and event
            lines = [
                line.replace("[constants.", random.choice(["[constants.x", "[", "[[constants."]), 1) for line in lines
            ]
    content = bytearray("\n".join(lines).encode())
    if random.random() < 0.3:
        content[random.randrange(len(content))] = random.randrange(256)
    return bytes(content)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_files_load_or_say_where(tmp_path):
    draw = random.Random(0)
    files = sorted(FOLDER.glob("*/*.toml"))
    refused = 0
    for number in range(300):
        original = draw.choice(files).read_text()
        path = tmp_path / f"damaged-{number}.toml"
        path.write_bytes(damaged(original, draw))
        try:
            Technology.read(path)
        except StorageError as error:
            refused += 1
            assert str(error).startswith(f"{path}: ")
            if "not TOML" not in str(error):
                names = [
                    *re.findall(r"constant '([^']*)'", str(error)),
                    *re.findall(r"unknown key '(.*?)'", str(error)),
                ]
                places = ("description", "constants", "flit_bits", "event_driven")
                assert names or any(place in str(error) for place in places), str(error)
    assert refused > 150
