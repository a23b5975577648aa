"""Sweeps: the front against brute force, tables that are resumed, and damaged files."""

import csv
import random
import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_models import HardwareConfig, Machine, Technology, price, price_on, sweep, time_on, with_static
from hw_models.sweep import COLUMNS, Source, Sweep, compute, groups, marked, pareto, read_rows
from hw_models.technology import FOLDER
from lowbit_dtp.codings import CODINGS
from lowbit_dtp.ledger import Access, Direction, Ledger, MessageType, Work
from lowbit_dtp.links import Link
from lowbit_dtp.storage import StorageError

OPTIONS = ("data", "rule", "sizes", "link")
FILE = """
runs = ["runs/demo"]
use = ["training", "inference"]
objectives = ["error", "bits", "joules"]

[estimates]
data = "digits"
rule = ["dtp", "straight-through@fixed(4,-2)"]
sizes = ["64-100-100-10"]
link = ["h1-h2=binary", "h1-h2=ternary/binary, h2-output=fixed(8,3)"]

[hardware]
technology = ["45nm", "7nm"]
placement = ["h1-h2=board,rest=on-die:2mm", ""]
memory = "sram"
reuse = [1, 50]
word_bits = 8
accumulator_bits = [16, 32]
"""


def written(tmp_path, text):
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    return path


def read(tmp_path, text):
    return Sweep.read(written(tmp_path, text), OPTIONS)


# --- the front


@given(st.lists(st.tuples(*[st.sampled_from([0.0, 1.0, 2.0, 3.0, float("nan")])] * 3), max_size=12))
@settings(max_examples=100, deadline=None)
def test_front_is_that_of_brute_force(points):
    def beats(a, b):
        return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))

    expected = [not any(x != x for x in p) and not any(beats(other, p) for other in points) for p in points]
    assert pareto(np.array(points).reshape(-1, 3)).tolist() == expected


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 2), min_size=1, max_size=50))
@settings(max_examples=50, deadline=None)
def test_front_has_ends_and_does_not_depend_on_the_order(points):
    values = np.array(points)
    front = pareto(values)
    assert front.any() and values[front, 0].min() == values[:, 0].min() and values[front, 1].min() == values[:, 1].min()
    order = np.random.default_rng(0).permutation(len(values))
    assert (pareto(values[order]) == front[order]).all()


def test_front_of_nothing():
    assert pareto(np.zeros((0, 2))).tolist() == []
    assert pareto(np.full((2, 2), np.nan)).tolist() == [False, False]


# --- points


def ledgers(width=500):
    """Ledgers of training, of two samples that a link carries 10 times, and of inference."""
    books = {}
    for use, times in (("training", 10), ("inference", 1)):
        ledger = Ledger(epochs=1, steps=1, samples=2)
        message = MessageType("h1-h2", Direction.FORWARD, "activations", "binary", 1, width)
        ledger.crossed(message, 2 * times, 0, width * times)
        ledger.worked(Work("h2", "activations", "multiply-accumulate", "binary", "float32"), 2 * times * width)
        ledger.accessed(Access("h2", "weight", "read", "float32", 32, 32 * width), 2 * times * width)
        books[use] = ledger
    return books


class Sources(list):
    """Sources that write down which of them made ledgers."""

    def __init__(self, widths, score=2.5):
        self.made = []
        super().__init__(
            Source(dict.fromkeys(sweep.SOURCE[:-1], "") | {"rule": "dtp", "sizes": str(width)}, f"version 1 of {width}",
                   lambda width=width: self.making(width), score)
            for width in widths
        )  # fmt: skip

    def making(self, width):
        self.made.append(width)
        return ledgers(width)


HARDWARE = '[hardware]\ntechnology = ["45nm", "7nm"]\nplacement = ["h1-h2=board", "rest=on-die:2mm"]\nword_bits = 64\n'


def test_points_are_priced_as_price_does(tmp_path):
    asked = read(tmp_path, 'runs = "x"\nuse = ["training", "inference"]\n' + HARDWARE)
    table = tmp_path / "sweep.csv"
    assert list(compute(asked, Sources([500, 100]), table)) == [(8, 0), (8, 0)]
    rows = read_rows(table)
    assert len(rows) == 16 and tuple(rows[0]) == COLUMNS
    expected = product(("500", "100"), ("training", "inference"), ("45nm", "7nm"), ("h1-h2=board", "rest=on-die:2mm"))
    for row, (sizes, use, technology, placement) in zip(rows, expected, strict=True):
        assert (row["sizes"], row["use"], row["technology"], row["placement"]) == (sizes, use, technology, placement)
        ledger, config = ledgers(int(sizes))[use], HardwareConfig.parse(placement, word_bits=64)
        total = price(ledger, config, Technology.load(technology)).per("sample").total
        assert [float(row[f"joules_{end}"]) for end in ("low", "typical", "high")] == [
            total.low,
            total.typical,
            total.high,
        ]
        assert float(row["bits"]) == ledger.bits(per="sample", word_bits=64)
        assert (row["score"], row["note"]) == ("2.5", "")


def test_front_is_marked_for_each_use(tmp_path):
    asked = read(tmp_path, 'runs = "x"\nuse = ["training", "inference"]\nobjectives = ["bits", "joules"]\n' + HARDWARE)
    list(compute(asked, Sources([500, 100]), tmp_path / "sweep.csv"))
    rows = read_rows(tmp_path / "sweep.csv")
    for use in ("training", "inference"):
        front = [row for row in rows if row["use"] == use and row["front"]]
        [best] = front  # fewest bits, and of those the fewest joules
        assert best["sizes"] == "100" and best["technology"] == "7nm"
        same = [float(row["joules_typical"]) for row in rows if row["use"] == use]
        assert float(best["joules_typical"]) == min(same)


def test_objective_that_no_point_has_is_left_out(tmp_path):
    asked = read(tmp_path, 'runs = "x"\n' + HARDWARE)
    list(compute(asked, Sources([500, 100], score=None), tmp_path / "sweep.csv"))
    assert [row["sizes"] for row in read_rows(tmp_path / "sweep.csv") if row["front"]] == ["100"]


def test_only_what_is_missing_is_computed(tmp_path):
    table, text = tmp_path / "sweep.csv", 'runs = "x"\n' + HARDWARE
    list(compute(read(tmp_path, text), Sources([500]), table))
    once = table.read_text()
    sources = Sources([500])
    assert list(compute(read(tmp_path, text), sources, table)) == [(0, 4)]
    assert sources.made == [] and table.read_text() == once
    # a width and a technology more: the new ones are computed, in the order of the sweep
    sources = Sources([100, 500])
    more = text.replace('"7nm"]', '"7nm"]\nreuse = [1, 2]')
    assert list(compute(read(tmp_path, more), sources, table)) == [(8, 0), (4, 4)]
    assert sources.made == [100, 500]
    fresh = tmp_path / "fresh.csv"
    list(compute(read(tmp_path, more), Sources([100, 500]), fresh))
    assert table.read_text() == fresh.read_text()
    # and fewer again
    list(compute(read(tmp_path, text), Sources([500]), table))
    assert table.read_text() == once


def test_stopped_sweep_keeps_what_it_had(tmp_path):
    table, asked = tmp_path / "sweep.csv", read(tmp_path, 'runs = "x"\n' + HARDWARE)
    list(compute(asked, Sources([500]), table))
    partly = compute(asked, Sources([100, 300, 500]), table)
    next(partly)
    partly.close()
    assert sorted({row["sizes"] for row in read_rows(table)}) == ["100", "500"]
    sources = Sources([100, 300, 500])
    assert list(compute(asked, sources, table)) == [(0, 4), (4, 0), (0, 4)]
    assert sources.made == [300]


def test_changed_ledgers_and_constants_are_computed_again(tmp_path):
    own = tmp_path / "own.toml"
    own.write_text((FOLDER / "processes" / "45nm.toml").read_text())
    text = 'runs = "x"\n[hardware]\ntechnology = "own.toml"\n'
    table = tmp_path / "sweep.csv"
    list(compute(read(tmp_path, text), Sources([500]), table))
    before = read_rows(table)
    [source] = Sources([500])
    changed = Source(source.settings, "version 2 of 500", source.ledgers, source.score)
    assert list(compute(read(tmp_path, text), [changed], table)) == [(1, 0)]
    own.write_text(re.sub(r'("sram[^]]*]\n)typical = \S+', r"\1typical = 9e-11", own.read_text()))
    assert list(compute(read(tmp_path, text), [changed], table)) == [(1, 0)]
    [after] = read_rows(table)
    assert after["digest"] != before[0]["digest"]


def test_points_without_a_price_say_why(tmp_path):
    asked = read(tmp_path, 'runs = "x"\n[hardware]\nplacement = ["h9-h10=board", ""]\nmemory = ["sram", "hbm2"]\n')
    list(compute(asked, Sources([500]), tmp_path / "sweep.csv"))
    rows = read_rows(tmp_path / "sweep.csv")
    assert rows[0]["note"] == rows[1]["note"] == "no link 'h9-h10'; there are: h1-h2"
    assert rows[2]["note"] == "" and rows[2]["front"] == "1"
    assert rows[3]["note"].startswith(
        "technology '45nm' has no constant 'hbm2', which read of weight in layer h2 needs;"
    )
    assert [row["bits"] for row in rows] == ["5000.0"] * 4
    assert [bool(row["joules_typical"]) for row in rows] == [False, False, True, False]


def chain():
    """Ledgers of inference of 4-3-2 in codes of 0 and 1, 10 samples."""
    ledger = Ledger(epochs=1, steps=1, samples=10)
    for link, width, layer, neurons in (("input-h1", 4, "h1", 3), ("h1-output", 3, "output", 2)):
        message = MessageType(link, Direction.FORWARD, "activations", "binary01", 1, width)
        ledger.crossed(message, 10, 10 * width // 2, 10 * width // 2)
        product = Work(layer, "activations", "multiply-accumulate", "binary01", "fixed(8,1)")
        ledger.worked(product, 10 * width * neurons)
        ledger.accessed(
            Access(layer, "weight", "read", "fixed(8,1)", 8, 8 * width * neurons, "activations"), 10 * width
        )
    return {"training": ledger}


def test_machines_have_their_own_technology_and_time(tmp_path):
    text = 'runs = "x"\n[hardware]\nmachine = ["loihi", "cpu", "braintta"]\nword_bits = [1, 8]\n'
    [source] = Sources([3])
    source = Source(source.settings, "", chain, None)
    table = tmp_path / "sweep.csv"
    list(compute(read(tmp_path, text), [source], table))
    rows = read_rows(table)
    assert [(row["machine"], row["word_bits"]) for row in rows] == [
        (name, bits) for bits in "18" for name in ("loihi", "cpu", "braintta")
    ]
    for row in rows:
        machine, ledger = Machine.load(row["machine"]), chain()["training"]
        config = replace(machine.place(ledger), word_bits=int(row["word_bits"]))
        bill, time = price_on(ledger, machine, config).per("sample"), time_on(ledger, machine, config)
        assert [row[name] for name in ("technology", "placement", "memory", "reuse")] == [""] * 4
        assert float(row["joules_typical"]) == with_static(bill, time).total.typical
        known = time.sequence
        assert row["seconds"] == ("" if known is None else repr(known.typical))
    assert len({bool(row["seconds"]) for row in rows}) == 2  # of some no throughput is published
    # a technology beside them
    more = text.replace("[hardware]\n", '[hardware]\ntechnology = "7nm"\n')
    assert list(compute(read(tmp_path, more), [source], table)) == [(2, 6)]
    processes = [row for row in read_rows(table) if not row["machine"]]
    assert [(row["technology"], row["memory"], row["seconds"]) for row in processes] == [("7nm", "sram", "")] * 2


def test_objectives_by_default_are_what_every_priced_point_has():
    row = dict.fromkeys(COLUMNS, "") | {"use": "training"}
    timed = row | {"bits": "2", "joules_typical": "1", "seconds": "3"}
    rows = [timed, timed | {"seconds": ""}, row | {"note": "no price"}]
    assert [group.objectives for group in groups(rows, ())] == [("bits", "joules")]
    assert [group.objectives for group in groups([timed, row], ())] == [("bits", "joules", "seconds")]
    assert [group.objectives for group in groups(rows, ("error", "seconds"))] == [("seconds",)]
    assert [row["front"] for row in marked(rows, ("joules", "seconds"))] == ["1", "", ""]
    # an estimate has no error: runs are compared with runs, unless only other objectives count
    run = timed | {"score": "5", "measure": "error_percent"}
    assert [(group.measure, group.objectives) for group in groups([run, timed], ())] == [
        ("error_percent", ("error", "bits", "joules", "seconds")),
        ("", ("bits", "joules", "seconds")),
    ]
    assert [len(group.rows) for group in groups([run, timed], ("bits", "joules"))] == [2]


def test_bits_of_a_coding_are_those_counted(tmp_path):
    draw = np.random.default_rng(0)
    link, ledger = Link("binary", "binary", "h1", "h2"), Ledger(samples=20, codings=("events", "run-length"))
    for purpose in ("activations", "noisy activations"):
        link.send(draw.random((20, 50)) - 0.9, Direction.FORWARD, purpose, ledger)
    [source] = Sources([50])
    source = Source(source.settings, "", lambda: {"training": ledger}, None)
    codings = '["", "h1-h2=events", "h1-h2.forward=best", "h1-h2=flips"]'
    text = f'runs = "x"\n[hardware]\ncoding = {codings}\nplacement = "rest=board"'
    list(compute(read(tmp_path, text), [source], tmp_path / "sweep.csv"))
    plain, events, best, flips = read_rows(tmp_path / "sweep.csv")
    sent = [ledger.coded_bits(name, "h1-h2", Direction.FORWARD) / 20 for name in ("plain", "events", "run-length")]
    assert [float(row["bits"]) for row in (plain, events, best)] == [*sent[:2], min(sent)]
    assert float(events["joules_typical"]) == pytest.approx(float(plain["joules_typical"]) * sent[1] / sent[0])
    assert flips["bits"] == "" and flips["note"].startswith("link h1-h2, forward 'activations': coding 'flips': it was")


def test_use_without_samples(tmp_path):
    [source] = Sources([500])
    empty = Source(source.settings, "", lambda: {"training": Ledger()}, None)
    list(compute(read(tmp_path, 'runs = "x"\n'), [empty], tmp_path / "sweep.csv"))
    [row] = read_rows(tmp_path / "sweep.csv")
    assert (row["note"], row["bits"], row["front"]) == ("no samples were counted", "", "")


# --- sweep files


def test_sweep_file(tmp_path):
    asked = read(tmp_path, FILE)
    assert asked.runs == ("runs/demo",) and asked.uses == ("training", "inference")
    assert asked.objectives == ("error", "bits", "joules")
    assert read(tmp_path, "runs = 'x'").objectives == ()
    assert asked.estimates["rule"] == ("dtp", "straight-through@fixed(4,-2)")
    machines = asked.machines()
    assert len(machines) == 2 * 2 * 2 * 2
    assert machines[0].settings["word_bits"] == "8" and machines[0].config.accumulator_bits == 16
    assert len({tuple(machine.settings.values()) for machine in machines}) == len(machines)


HARDWARE_KEYS = "accumulator_bits, coding, feedback_weights, machine, memory, placement, reuse, technology, word_bits"
MISTAKES = {
    "empty": ("", "nothing to sweep over: give runs, or a table of estimates"),
    "key": ("run = 'x'", "no key 'run'; there are: estimates, hardware, objectives, runs, use"),
    "table": ("estimates = 'x'", "estimates must be a table, not 'x'"),
    "no list": ("runs = [['x']]", "runs must be a text, a number, or a list of them, not ['x']"),
    "empty list": ("runs = []", "runs must have at least one value, not []"),
    "twice": ("runs = ['x', 'x']", "runs has 'x' twice"),
    "use": ("runs = 'x'\nuse = 'test'", "no use 'test'; there are: inference, training"),
    "objective": ("runs = 'x'\nobjectives = ['time']", "no objective 'time'; there are: bits, error, joules, seconds"),
    "option": ("[estimates]\nrules = 'x'", "estimates: no key 'rules'; there are: data, link, rule, sizes"),
    "hardware": ("runs = 'x'\n[hardware]\nwire = 'x'", f"hardware: no key 'wire'; there are: {HARDWARE_KEYS}"),
    "reuse": ("runs = 'x'\n[hardware]\nreuse = [1, 0]", "hardware.reuse: reuse must be 1 or more, not 0.0"),
    "truth": ("runs = true", "runs must be a text, a number, or a list of them, not True"),
    "coding": (
        "runs = 'x'\n[hardware]\ncoding = 'h1-h2=flps'",
        "hardware.coding: no coding 'flps'; there are: CODINGS",
    ),
    "end": (
        "runs = 'x'\n[hardware]\nfeedback_weights = 'h1-h2=above'",
        "hardware.feedback_weights: no feedback weights 'above'; there are: lower, upper",
    ),
    "placement": (
        "runs = 'x'\n[hardware]\nplacement = 'board'",
        "hardware.placement: placement 'board': write LINK=WIRE, as in h1-h2=board or h1-h2=on-die:5mm",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_name_file_and_field(text, message, tmp_path):
    with pytest.raises(StorageError) as error:
        read(tmp_path, text)
    message = message.replace("CODINGS", ", ".join(sorted([*CODINGS, "best"])))
    assert str(error.value) == f"{tmp_path / 'sweep.toml'}: {message}"


def test_unknown_technologies_and_wires(tmp_path):
    for key, value in (("technology", "3nm"), ("placement", "h1-h2=string")):
        with pytest.raises(StorageError) as error:
            read(tmp_path, f"runs = 'x'\n[hardware]\n{key} = '{value}'")
        unknown = value.rpartition("=")[2]
        assert str(error.value).startswith(
            f"{tmp_path / 'sweep.toml'}: hardware.{key}: no technology '{unknown}'; there are: 45nm, 7nm, "
        )
    with pytest.raises(StorageError, match=re.escape(f"{tmp_path / 'nowhere.toml'}: no such file")):
        Sweep.read(tmp_path / "nowhere.toml", OPTIONS)


def test_damaged_files_are_told_by_name(tmp_path):
    """Characters changed, removed or doubled anywhere: a sweep, or a message that names the file."""
    draw, told = random.Random(0), 0
    for _ in range(400):
        at = draw.randrange(len(FILE))
        damage = draw.choice(["", FILE[at] * 2, draw.choice('x0"[]=,\n\\é-')])
        try:
            read(tmp_path, FILE[:at] + damage + FILE[at + 1 :])
        except StorageError as error:
            told += 1
            assert str(error).startswith(f"{tmp_path / 'sweep.toml'}: ") and len(str(error)) < 400
    assert told > 140


def test_bytes_that_are_no_text(tmp_path):
    path = written(tmp_path, FILE)
    for content in (b"\xff\xfe", b"runs = " + b"9" * 5000, b"\x00"):
        path.write_bytes(content)
        with pytest.raises(StorageError, match=f"^{re.escape(str(path))}: not TOML "):
            Sweep.read(path, OPTIONS)
    path.write_bytes(b'\xef\xbb\xbfruns = "x"')  # an editor may put a byte-order mark first
    assert Sweep.read(path, OPTIONS).runs == ("x",)


# --- tables


def test_damaged_tables_are_told_by_name(tmp_path):
    table = tmp_path / "sweep.csv"
    list(compute(read(tmp_path, 'runs = "x"\n' + HARDWARE), Sources([500]), table))
    lines = table.read_text().splitlines()
    joules = next(csv.DictReader(lines))["joules_low"]
    columns = ", ".join(COLUMNS)
    mistakes = {
        "": f"not the table of a sweep by this version: its columns must be {columns}",
        "\n".join(["a,b", *lines[1:]]): f"not the table of a sweep by this version: its columns must be {columns}",
        "\n".join([*lines[:2], "a,b,c,d"]): f"line 3 has 4 columns, not {len(COLUMNS)}",
        "\n".join(lines).replace(joules, "1.x", 1): "line 2: joules_low must be a number or empty, not '1.x'",
        "\n".join(lines).replace(joules, "nan", 1): "line 2: joules_low must be a number or empty, not 'nan'",
        '"a': "not a CSV file (unexpected end of data)",
    }
    for text, message in mistakes.items():
        table.write_text(text)
        with pytest.raises(StorageError) as error:
            list(compute(read(tmp_path, 'runs = "x"\n' + HARDWARE), Sources([500]), table))
        assert str(error.value) == f"{table}: {message}"
