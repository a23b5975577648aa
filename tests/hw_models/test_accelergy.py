"""Accelergy's tables: a round trip without loss, tables of other origin, and files that are damaged."""

import warnings
from dataclasses import astuple, replace
from random import Random

import pytest
import yaml

from hw_models import HardwareConfig, Technology, accelergy, price
from hw_models.technology import BANDS
from lowbit_dtp.ledger import Access, Ledger, Work
from lowbit_dtp.storage import StorageError
from tests.conformance.cases import PROCESSES
from tests.hw_models.test_price import everything

PJ = 1e-12


def written(tmp_path, technology, name="table.yaml"):
    path = tmp_path / name
    accelergy.write(path, technology)
    return path


@pytest.mark.parametrize("name", Technology.names())
def test_round_trip_keeps_every_constant(tmp_path, name):
    technology = Technology.load(name)
    found = Technology.load(str(written(tmp_path, technology)))
    assert replace(found, name=name, constants={}) == replace(technology, constants={})
    assert {key: replace(constant, technology=name) for key, constant in found.constants.items()} == dict(
        technology.constants
    )


@pytest.mark.parametrize("name", PROCESSES)
def test_round_trip_keeps_every_total(tmp_path, name):
    ledger, config = everything(), HardwareConfig.parse("rest=board")
    before = price(ledger, config, Technology.load(name))
    after = price(ledger, config, Technology.load(str(written(tmp_path, Technology.load(name)))))
    assert after.total == before.total
    for key in ("part", "where", "operation", "purpose", "format"):
        assert after.by(key) == before.by(key)


def test_a_table_has_picojoules_of_each_action(tmp_path):
    table = yaml.safe_load(written(tmp_path, Technology.load("45nm")).read_text())["ERT"]
    assert table["version"] == "0.4"
    energies = {part["name"]: {a["name"]: a["energy"] for a in part["actions"]} for part in table["tables"]}
    assert energies["45nm.multiply_float32[1..1]"] == {"compute": 3.7}
    assert energies["45nm.sram_8_KiB[1..1]"] == {"read": 10.0, "write": 10.0, "update": 10.0}
    assert energies["45nm.dram[1..1]"] == {"read": 1300.0, "write": 1300.0, "update": 1300.0}
    assert len(energies) == len(Technology.load("45nm").constants)


def test_a_range_moves_with_an_energy_that_was_changed(tmp_path):
    path = written(tmp_path, Technology.load("45nm"))
    path.write_text(path.read_text().replace("energy: 1300.0", "energy: 650"))
    dram = Technology.load(str(path)).constants["dram"]
    assert (dram.low, dram.typical, dram.high) == pytest.approx((650 * PJ, 650 * PJ, 1300 * PJ))


OTHER = """\
# as Timeloop writes it
ERT:
    version: '0.4'
    tables:
      - name: system_top_level.DRAM[1..1]
        actions:
          - name: read
            arguments:
                global_cycle_seconds: 1e-09
                action_latency_cycles: 1
            energy: 512.0
          - name: write
            arguments: {global_cycle_seconds: 1e-09, action_latency_cycles: 1}
            energy: 500.0
          - name: leak
            arguments: {}
            energy: 0.0
      - name: system_top_level.glb[1..1]
        actions:
          - {name: read, arguments: {data_delta: 0, address_delta: 0}, energy: 0}
          - {name: read, arguments: {data_delta: 1, address_delta: 1}, energy: 32}
          - {name: write, arguments: {data_delta: 1, address_delta: 1}, energy: 26}
          - {name: update, energy: 40}
      - name: system_top_level.PE[0..167].mac[1..1]
        actions:
          - name: mac_random
            energy: 0.845
          - name: mac_reused
            energy: 0.726125
      - name: system_top_level.PE[0..167].fp_adder
        actions: [{name: add, energy: 0.9}]
      - name: system_top_level.PE[0..167].multiplier
        actions: [{name: mult_random, energy: 0.2}]
      - name: system_top_level.noc
        actions: [{name: transfer_random, energy: 3.2}]
"""
STATED = OTHER + "lowbit_dtp:\n  bits: {mac: 8, glb: 32, noc: 32}\n  capacity_bits:\n    glb: 1048576\n"


def other(tmp_path, text=OTHER):
    path = tmp_path / "other.yaml"
    path.write_text(text)
    return path


def test_a_table_of_other_origin(tmp_path):
    technology = Technology.load(str(other(tmp_path)))
    one = BANDS["pre-silicon"]  # one figure has the band of its evidence
    assert {(name, c.per): astuple(c.range) for name, c in technology.constants.items()} == {
        ("DRAM", "64-bit access"): pytest.approx((500 * PJ, 512 * PJ, 512 * PJ)),
        ("DRAM write", "64-bit access"): pytest.approx((500 * PJ / one, 500 * PJ, 500 * PJ * one)),
        ("glb", "64-bit access"): pytest.approx((0, 32 * PJ, 40 * PJ)),
        ("glb write", "64-bit access"): pytest.approx((26 * PJ / one, 26 * PJ, 26 * PJ * one)),
        ("glb update", "64-bit access"): pytest.approx((40 * PJ / one, 40 * PJ, 40 * PJ * one)),
        ("multiply-accumulate int16", "operation"): pytest.approx((0.845 * PJ / one, 0.845 * PJ, 0.845 * PJ * one)),
        ("add float16", "operation"): pytest.approx((0.9 * PJ / one, 0.9 * PJ, 0.9 * PJ * one)),
        ("multiply int16", "operation"): pytest.approx((0.2 * PJ / one, 0.2 * PJ, 0.2 * PJ * one)),
    }
    assert technology.description == (
        "Accelergy energy reference table other.yaml. "
        "Not read: leak of DRAM, mac_reused of mac, transfer_random of noc."
    )
    assert technology.constants["glb"].source == (
        "Accelergy energy reference table other.yaml: glb, read, write, update; 64 bits wide, the default of "
        "Accelergy's library"
    )


def test_a_file_may_state_widths_and_sizes(tmp_path):
    constants = Technology.load(str(other(tmp_path, STATED))).constants
    assert constants["glb"].typical == pytest.approx(64 * PJ)  # two words of 32 bits
    assert constants["glb"].capacity_bits == 2**20
    assert constants["wire noc"].typical == pytest.approx(0.1 * PJ) and constants["wire noc"].per == "bit"
    assert constants["multiply-accumulate int8"].source.endswith(": mac, mac_random; 8 bits wide")


def test_price_with_a_table_of_other_origin(tmp_path):
    ledger = Ledger(steps=1, samples=1)
    ledger.worked(Work("h1", "activations", "multiply-accumulate", "ufixed(5,1)", "fixed(8,1)"), 100)
    ledger.accessed(Access("h1", "weight", "read", "fixed(8,1)", 8, 800), 100)
    bill = price(ledger, HardwareConfig(memory="DRAM"), Technology.load(str(other(tmp_path, STATED))))
    assert bill.by("part")["compute"].typical == pytest.approx(84.5 * PJ)  # a unit of 8 bits holds 5 as well
    assert bill.by("part")["memory"].typical == pytest.approx(800 / 64 * 512 * PJ)


def test_units_that_are_too_narrow_or_need_no_multiplier_are_not_used(tmp_path):
    technology = Technology.load(str(other(tmp_path, STATED)))
    for left, right, missing in (
        ("fixed(9,1)", "fixed(8,1)", "multiply integer, squared"),
        ("binary", "fixed(8,1)", "add integer"),
        ("float32", "fixed(8,1)", "multiply float32"),
    ):
        ledger = Ledger(steps=1, samples=1)
        ledger.worked(Work("h1", "activations", "multiply-accumulate", left, right), 1)
        with pytest.raises(ValueError, match=f"has no constant '{missing}', which multiply-accumulate"):
            price(ledger, HardwareConfig(), technology)


def test_names_that_end_alike_are_told_apart_by_the_whole(tmp_path):
    text = OTHER.replace("system_top_level.DRAM[1..1]", "a.glb[1..2]")
    names = list(Technology.load(str(other(tmp_path, text))).constants)
    assert names[:3] == ["a.glb", "a.glb write", "system_top_level.glb"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ERT:\n", "ERT:\n\tERT:\n", "not YAML (line 3: found character '\\t' that cannot start any token)"),
        ("ERT:", "ert:", "has no top key ERT, so it is no energy reference table of Accelergy"),
        ("version: '0.4'", "version: 0.2", "ERT.version is '0.2'; this program reads 0.3 and 0.4"),
        ("    version: '0.4'\n", "", "ERT.version is missing"),
        ("    tables:", "    tabels:", "ERT.tables is missing"),
        (
            "energy: 512.0",
            "energy: much",
            "ERT.tables[0] (system_top_level.DRAM[1..1]).actions[0].energy must be a number, not 'much'",
        ),
        (
            "energy: 512.0",
            "energy: .inf",
            "ERT.tables[0] (system_top_level.DRAM[1..1]).actions[0].energy must be a finite number, not inf",
        ),
        (
            "energy: 512.0",
            "energy: -1",
            "energy of system_top_level.DRAM[1..1], read, must be 0 or more picojoules, not -1",
        ),
        ("    tables:\n", "    tables: {}\n    x:\n", "ERT.tables must be a list, not {}"),
        ("system_top_level.noc", "system_top_level.glb[2]", "ERT.tables has two components 'system_top_level.glb'"),
        ("lowbit_dtp:", "lowbit_dtp: 3\nx:", "lowbit_dtp must be a table, not 3"),
        ("mac: 8", "mac: eight", "lowbit_dtp.bits.mac must be a whole number, not 'eight'"),
        ("mac: 8", "mac: 0", "lowbit_dtp.bits.mac must be 1 bit or more, not 0"),
        (
            "mac: 8",
            "cpu: 8",
            "lowbit_dtp.bits names 'cpu'; the components are: DRAM, glb, mac, fp_adder, multiplier, noc",
        ),
        (
            "glb: 1048576",
            "mem: 1048576",
            "lowbit_dtp.capacity_bits names 'mem'; the components are: DRAM, glb, mac, fp_adder, multiplier, noc",
        ),
    ],
)
def test_a_damaged_file(tmp_path, old, new, message):
    assert old in STATED
    path = other(tmp_path, STATED.replace(old, new, 1))
    with pytest.raises(StorageError) as error:
        accelergy.read(path)
    assert str(error.value) == f"{path}: {message}"


@pytest.mark.parametrize(
    ("component", "constants"),
    [
        ("intmac", ["multiply-accumulate int16"]),
        ("fp_mac", ["multiply-accumulate float16"]),
        ("MACC", ["multiply-accumulate int16"]),
        ("mult8", ["multiply int16"]),
        ("fpmultiplier", ["multiply float16"]),
        ("intadder", ["add int16"]),
        ("cim_macro", ["cim_macro"]),
        ("multibank_buffer", ["multibank_buffer"]),
        ("address_buffer", ["address_buffer"]),
    ],
)
def test_components_by_name(tmp_path, component, constants):
    actions = "{name: read, energy: 1}, {name: compute, energy: 2}"
    path = other(tmp_path, f"ERT: {{version: '0.3', tables: [{{name: a.{component}, actions: [{actions}]}}]}}\n")
    assert list(accelergy.read(path).constants) == constants


def test_two_components_for_one_constant(tmp_path):
    path = other(
        tmp_path,
        OTHER.replace(
            "top_level.noc\n        actions: [{name: transfer_random", "macc\n        actions: [{name: compute"
        ),
    )
    with pytest.raises(StorageError) as error:
        accelergy.read(path)
    assert str(error.value) == (
        f"{path}: ERT.tables: two components are 'multiply-accumulate int16'; name one of them otherwise"
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("      unit: joule\n", "", "constant 'add int8' has no unit"),
        ("      per: operation\n", "      per: op\n", "constant 'add int8': per 'op' is none of: "),
        (
            "      typical: 3.0e-14\n",
            "      typical: 0\n",
            "lowbit_dtp.constants.add_int8.typical is 0, but its energy is not",
        ),
        ("      name: add int8\n", "", "lowbit_dtp.constants.add_int8.name is missing"),
        ("    add_int8:\n", "    add_int9:\n", "lowbit_dtp.constants.add_int9 has no table of that name in ERT.tables"),
        (
            "    - name: write\n      arguments: {}\n      energy: 10.0",
            "    - name: write\n      arguments: {}\n      energy: 11.0",
            "ERT.tables: the actions of sram_8_KiB must have one energy, since it is one constant, not 10, 11",
        ),
    ],
)
def test_a_damaged_file_of_ones_own(tmp_path, old, new, message):
    path = written(tmp_path, Technology.load("45nm"))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(StorageError) as error:
        accelergy.read(path)
    assert str(error.value).startswith(f"{path}: {message}")


def test_files_that_cannot_be_read(tmp_path):
    for path, message in (
        (tmp_path / "none.yaml", "no such file"),
        (tmp_path / "folder.yaml", "cannot be read (Is a directory)"),
        (
            tmp_path / "latin.yaml",
            "not YAML ('utf-8' codec can't decode byte 0xe9 in position 0: unexpected end of data)",
        ),
        (tmp_path / "empty.yaml", "has no top key ERT, so it is no energy reference table of Accelergy"),
    ):
        if "folder" in path.name:
            path.mkdir()
        if "latin" in path.name:
            path.write_bytes(b"\xe9")
        if "empty" in path.name:
            path.write_text("# nothing\n")
        with pytest.raises(StorageError) as error:
            Technology.load(str(path))
        assert str(error.value) == f"{path}: {message}"


def test_a_table_with_nothing_that_is_read(tmp_path):
    path = other(tmp_path, "ERT: {version: 0.4, tables: [{name: pe, actions: [{name: leak, energy: 1}]}]}\n")
    with pytest.raises(StorageError) as error:
        accelergy.read(path)
    assert str(error.value) == f"{path}: ERT.tables has no action that is read: leak of pe"


def test_every_damaged_file_names_itself(tmp_path):
    """A byte-order mark and line ends of another system are no damage; what is gives a StorageError with the file."""
    own, random, failures = written(tmp_path, Technology.load("on-die")).read_text(), Random(0), 0
    assert accelergy.read(other(tmp_path, "\ufeff" + STATED.replace("\n", "\r\n"))).constants
    for number in range(300):
        text = list(STATED if number % 2 else own)
        for _ in range(random.randrange(1, 5)):
            place = random.randrange(len(text))
            text[place : place + random.randrange(3)] = random.choice(
                ["", "{", "]", ": ", "- ", "\n", "'", "#", "\t", "9" * 400]
            )
        path = other(tmp_path, "".join(text))
        try:
            with warnings.catch_warnings(action="ignore"):
                accelergy.read(path)
        except StorageError as error:
            failures += 1
            assert str(error).startswith(f"{path}: ")
    assert failures > 100
