"""The panel of a report prices as `hw_models.price` does, in a browser, and readers can use it."""

import html
import json
import re
from dataclasses import astuple, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from hw_models import HardwareConfig, Technology, Wire, break_even_gradient_bits, price
from hw_models.uncertainty import ratio
from lowbit_dtp.comparison import _baseline, _straight_through, placement_of, priced, with_ratios
from lowbit_dtp.data import Samples
from lowbit_dtp.estimation import estimate
from lowbit_dtp.experiment import Comparison
from lowbit_dtp.ledger import Access, Direction, Ledger, MessageType, Traffic, Work
from lowbit_dtp.links import Link
from lowbit_dtp.network import Network
from lowbit_dtp.optimizers import SGD
from lowbit_dtp.panel import price_list
from lowbit_dtp.report import render, write_report
from lowbit_dtp.rules import DTP, Backprop, StraightThrough
from lowbit_dtp.storage import write_text
from lowbit_dtp.summary import DataRow, Row, Spread, Summary, link_rows
from lowbit_dtp.training import Progress, fit

pytestmark = pytest.mark.filterwarnings("ignore:link h2-output, feedback. toggles need two messages:UserWarning")
ENDS = ("low", "typical", "high")
SIZES, LINKS = (40, 60, 50, 10), (Link("ufixed(8,0)"), Link("binary", "binary"), Link())
PLACEMENT = "h1-h2=board, h2-output=on-die:1mm:2times"
BATCH = 20
PROCESS = """
description = "a process with wires of its own, and a memory that may cost nothing"
flit_bits = 32
"""
CONSTANTS = {
    "sram 1 KiB": ("64-bit access", 0.0, 1e-12, 2e-12, 8192),
    "sram 4 KiB": ("64-bit access", 1e-12, 3e-12, 5e-12, 32768),
    "wire on-die, metal": ("transition and metre", 1e-11, 1e-10, 3e-10, None),
    "wire on-die, driver": ("one", 1e-15, 2e-15, 3e-15, None),
    "wire ring, router": ("flit and hop", 1e-13, 2e-13, 3e-13, None),
    "wire ring, cable": ("bit and metre", 1e-12, 2e-12, 3e-12, None),
    "wire ring, header": ("message", 1e-12, 2e-12, 4e-12, None),
}


def made_up(folder: Path) -> Technology:
    """A technology with terms that the others lack; its operations cost as much as at 45 nm."""
    text = PROCESS
    for name, (per, low, typical, high, bits) in CONSTANTS.items():
        size = f"capacity_bits = {bits}\n" if bits else ""
        text += (
            f'[constants."{name}"]\nlow = {low}\ntypical = {typical}\nhigh = {high}\nunit = "joule"\nper = "{per}"\n'
            f'source = "made up for a test"\nevidence = "assumed"\n{size}'
        )
    write_text(folder / "made-up.toml", text)
    read, at45 = Technology.read(folder / "made-up.toml"), Technology.load("45nm").constants
    return replace(read, constants={**{n: c for n, c in at45.items() if "sram" not in n}, **read.constants})


def trained(rule, codings=()) -> Ledger:
    """The training ledger of `rule` on 40-60-50-10, with h1-h2 binary."""
    stream = np.random.default_rng(0)
    samples = Samples(stream.random((60, 40), np.float32), stream.integers(0, 10, 60))
    net = Network.build(SIZES, LINKS, seed=0)
    rule.prepare(net, 0)
    progress = Progress(ledger=Ledger(codings=codings))
    for _ in fit(net, rule, SGD(0.01), samples, 1, BATCH, progress=progress, mode="plain"):
        pass
    return progress.ledger


def by_hand() -> Ledger:
    """Messages with scales, one alone on its link, and arrays of all sizes and uses."""
    ledger = Ledger(samples=7, batch=BATCH)
    up, down = Direction.FORWARD, Direction.FEEDBACK
    ledger.crossed(MessageType("h1-h2", up, "activations", "mxfp4", 4, 60, 16), 7, 123, 57)
    ledger.crossed(MessageType("h2-output", up, "activations", "binary01", 1, 33), 21, 100, 90)
    ledger.crossed(MessageType("h2-output", down, "error", "float32", 32, 10), 1, 150, 0)
    ledger.worked(Work("h1", "activations", "multiply-accumulate", "float32", "float32"), 1234)
    for bits in (1, 8192, 30000, 65536, 90 * 90 * 32, 262144, 2**21, 2**23, 2**30):
        ledger.accessed(Access("h1", "weight", "read", "float32", 32, bits, "activations"), 1000)
        ledger.accessed(Access("h1", "weight", "read", "float32", 32, bits, "update"), 77)
        ledger.accessed(Access("h1", "state", "write", "float32", 32, bits, "activations"), 500)
    return ledger


@pytest.fixture(scope="module")
def ledgers() -> dict[str, Ledger]:
    rules = {"dtp": DTP(), "straight-through": StraightThrough("float32"), "backprop": Backprop()}
    return {name: trained(rule) for name, rule in rules.items()} | {"by-hand": by_hand()}


@pytest.fixture(scope="module")
def technologies(tmp_path_factory) -> list[Technology]:
    return [Technology.load("45nm"), Technology.load("7nm"), made_up(tmp_path_factory.mktemp("technology"))]


def summary(ledgers: dict[str, Ledger], technologies: list[Technology]) -> Summary:
    """A comparison whose rules have these ledgers."""
    placement, inference = placement_of(PLACEMENT), Ledger()
    rows = []
    for rule, ledger in ledgers.items():
        links = link_rows(ledger, inference)
        row = Row(rule, rule, 1, {0: rule}, Spread(2.0, 0.0), Spread(2.0, 0.0), links, None, "cpu")
        rows.append(priced(row, ledger, inference, placement, technologies))
    rows = with_ratios(rows, list(ledgers.values()), placement, technologies)
    return Summary(
        rows=tuple(rows),
        network=Network.build(SIZES, LINKS, seed=0).describe(),
        data=DataRow("digits", "a file", None, "ufixed(8,0)"),
        experiment={},
        placement=PLACEMENT,
        exported=None,
        command="lowbit-dtp compare",
        versions={},
        commit=None,
        machine="x86_64",
        prices=price_list(technologies, placement, rows, _straight_through(rows, list(ledgers.values()))),
    )


@pytest.fixture(scope="module")
def report(ledgers, technologies, tmp_path_factory) -> Path:
    return write_report(tmp_path_factory.mktemp("report"), summary(ledgers, technologies))


@pytest.fixture
def page(browser, report):
    """The browser, with the report of the comparison."""
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get_log("browser")
    browser.get(report.as_uri())
    return browser


CHOOSE = """
const form = document.getElementById("panel-form");
const choose = (state) => {
  form.elements.technology.value = state.technology;
  form.elements.reuse.value = state.reuse;
  form.elements.gradient.value = state.gradient;
  for (const [link, [kind, millimetres, hops]] of Object.entries(state.wires)) {
    const set = (name, value) => { form.querySelector(`[name="${name}"][data-link="${link}"]`).value = value; };
    set("wire", kind);
    set("length", millimetres);
    set("hops", hops);
    if (state.coding) set("coding", state.coding);
  }
  form.elements.technology.dispatchEvent(new Event("input", { bubbles: true }));
};
const shown = () => [...document.querySelectorAll("#panel-results tr[data-row]")].map((row) =>
  Object.fromEntries([...row.querySelectorAll("[data-of]")].map((cell) => [cell.dataset.of, { ...cell.dataset }])));
"""


def shown(browser, states: list[dict]) -> list[list[dict]]:
    """For each state of the form, what each row of the table says: by column, the numbers behind the text."""
    return browser.execute_script(f"{CHOOSE} return arguments[0].map((state) => (choose(state), shown()));", states)


def with_gradient(ledger: Ledger, bits: int) -> Ledger:
    """`ledger` of straight-through with gradients of so many bits on h1-h2, of which half toggle."""
    changed = replace(ledger.empty(), coded_counts=ledger.coded_counts)
    changed.counts.work.update(ledger.work)
    changed.counts.accesses.update(ledger.accesses)
    for message, traffic in ledger.traffic.items():
        if (message.link, message.direction) == ("h1-h2", Direction.FEEDBACK):
            message = message._replace(format=f"fixed({bits},0)", bits=bits)
            half = traffic.messages * message.message_bits // 2
            traffic = Traffic(traffic.messages, half, half)
        changed.crossed(message, traffic.messages, traffic.ones, traffic.toggles)
    return changed


def near(value: float):
    return pytest.approx(value, rel=1e-9)


def test_every_number_is_that_of_the_price(page, ledgers, technologies):
    wires = {
        "45nm": ["on-die:3mm", "board", "serdes", "interposer", "chip-to-chip"],
        "7nm": ["on-die:0.5mm", "board"],
        "made-up": ["on-die:2mm", "ring:3hops:40mm", "board"],
    }
    states, configs = [], []
    for technology in technologies:
        for wire, reuse in product(wires[technology.name], (1, 3, BATCH)):
            middle, rest = Wire.parse(wire), Wire("on-die", 1e-3)
            links = {"input-h1": rest, "h1-h2": middle, "h2-output": replace(middle if reuse == 3 else rest, times=2)}
            placed = {link: (x.kind, 1000 * (x.metres or 0), x.hops or 0) for link, x in links.items()}
            gradient = {1: 4, 3: 1, BATCH: 32}[reuse]
            states.append({"technology": technology.name, "reuse": reuse, "gradient": gradient, "wires": placed})
            configs.append((technology, HardwareConfig(links, rest, reuse=reuse), gradient))
    answers = shown(page, states)
    assert page.get_log("browser") == []
    for rows, (technology, config, gradient) in zip(answers, configs, strict=True):
        books = {**ledgers, "baseline": with_gradient(ledgers["straight-through"], gradient)}
        bills = {name: price(book, config.within(book), technology).per("sample") for name, book in books.items()}
        for name, row in zip(books, rows, strict=True):
            parts = bills[name].by("part") | {"total": bills[name].total}
            for part, cost in parts.items():
                assert [float(row[part][end]) for end in ENDS] == [near(x) for x in astuple(cost)], (name, part, config)
            assert float(row["share"]["typical"]) == near(bills[name].links_share.typical)
            if name != "baseline":
                times = bills[name].total.typical / bills["baseline"].total.typical
                assert float(row["ratio"]["typical"]) == near(times)


CODINGS = ("plain", "best", "events", "flips", "silence", "run-length", "zero-skip", "bus-invert")


def test_coded_messages_cost_as_much_as_the_price_of_their_bits(browser, technologies, tmp_path):
    codings = [name for name in CODINGS if name not in ("plain", "best")]
    rules = {"dtp": DTP(), "straight-through": StraightThrough("float32")}
    ledgers = {name: trained(rule, codings) for name, rule in rules.items()}
    browser.get(write_report(tmp_path, summary(ledgers, technologies)).as_uri())
    offered = "return [...document.querySelector('[name=coding]').options].map((option) => option.value)"
    assert tuple(browser.execute_script(offered)) == CODINGS
    states, configs = [], []
    for technology, coding in product((technologies[0], technologies[2]), CODINGS):
        wire = "ring:3hops:40mm" if technology.name == "made-up" else "board"
        links = {
            "input-h1": Wire("on-die", 1e-3),
            "h1-h2": Wire.parse(wire),
            "h2-output": Wire("on-die", 2e-3, times=2),
        }
        placed = {link: (x.kind, 1000 * (x.metres or 0), x.hops or 0) for link, x in links.items()}
        choice = {"technology": technology.name, "reuse": 1, "gradient": 4, "wires": placed, "coding": coding}
        states.append(choice)
        configs.append((technology, HardwareConfig(links, coding=dict.fromkeys(links, coding))))
    for rows, (technology, config) in zip(shown(browser, states), configs, strict=True):
        for name, row in zip(ledgers, rows, strict=False):
            bill = price(ledgers[name], config, technology).per("sample")
            assert [float(row["link"][end]) for end in ENDS] == [near(x) for x in astuple(bill.by("part")["link"])]
        plain = replace(config, coding={**config.coding, "h1-h2.feedback": "plain"})
        bill = price(with_gradient(ledgers["straight-through"], 4), plain, technology).per("sample")
        assert [float(rows[2]["link"][end]) for end in ENDS] == [near(x) for x in astuple(bill.by("part")["link"])]
        bits = {
            name: {way: sent(ledgers[name], config.coding_of("h1-h2", way), way) for way in Direction} for name in rules
        }
        excess = sum(bits["dtp"].values()) - bits["straight-through"][Direction.FORWARD]
        assert float(rows[0]["even-bits"]["typical"]) == near(excess / 60)


def sent(ledger: Ledger, coding: str, way: Direction) -> float:
    """Bits a sample over h1-h2 with a coding."""
    coding = ledger.best_coding("h1-h2", way) if coding == "best" else coding
    return ledger.coded_bits(coding, "h1-h2", way, per="sample")


def test_break_even_is_where_straight_through_sends_and_costs_as_much(page, ledgers, technologies):
    wires = {"input-h1": ("on-die", 1, 1), "h1-h2": ("board", 1, 1), "h2-output": ("on-die", 1, 1)}
    [rows] = shown(page, [{"technology": "45nm", "reuse": 1, "gradient": 4, "wires": wires}])
    even = {name: (float(row["even-bits"]["typical"]), float(row["even-joules"]["typical"]))
            for name, row in zip(ledgers, rows, strict=False)}  # fmt: skip
    assert even["dtp"][0] == near(break_even_gradient_bits(ledgers["dtp"], "h1-h2"))
    assert even["straight-through"] == (near(32), pytest.approx(32, rel=1e-6))
    config = HardwareConfig.parse(PLACEMENT)
    totals = {}
    for bits in (1, 2, 4):
        book = with_gradient(ledgers["straight-through"], bits)
        totals[bits] = price(book, config, technologies[0]).per("sample").total.typical
    wanted = price(ledgers["dtp"], config, technologies[0]).per("sample").total.typical
    slope = (totals[4] - totals[2]) / 2
    assert even["dtp"][1] == pytest.approx(1 + (wanted - totals[1]) / slope, rel=1e-6)


def test_a_reader_moves_bars_by_the_keyboard_and_takes_it_back(page):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    def seen():
        bar = page.find_element(By.CSS_SELECTOR, "#panel-results .bar .memory")
        return page.find_element(By.ID, "panel-state").text, bar.get_attribute("style")

    before = seen()
    links = "links: input-h1 on-die 1 mm, h1-h2 board, h2-output on-die 1 mm 2 times"
    assert before[0] == f"45nm; {links}; straight-through with a gradient of 4 bits."
    page.find_element(By.NAME, "reuse").send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    page.find_element(By.NAME, "technology").send_keys("7nm")
    after = seen()
    assert after[0].startswith("7nm, 3 samples share an access; links: ")
    assert after[1] != before[1]
    page.find_element(By.CSS_SELECTOR, "#panel-form button").click()
    page.implicitly_wait(5)
    page.find_element(By.XPATH, "//p[@id='panel-state'][starts-with(., '45nm; ')]")
    page.implicitly_wait(0)
    assert seen() == before


def test_every_control_has_a_name_of_its_own(page):
    from selenium.webdriver.common.by import By

    controls = page.find_elements(By.CSS_SELECTOR, "#panel-form select, #panel-form input, #panel-form button")
    names = [control.accessible_name for control in controls if control.is_displayed()]
    assert len(names) == 3 + 5 + 1 and all(names) and len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("technology", "kind", "millimetres", "told"),
    [
        ("45nm", "on-die", "-1", "Length of h1-h2 in millimetres: Value must be greater than or equal to 0."),
        ("45nm", "on-die", "", "Length of h1-h2 in millimetres: Please fill out this field."),
        ("45nm", "ring", "1", "h1-h2: this technology has no such wire."),
    ],
)
def test_what_cannot_be_priced_is_said_and_old_numbers_are_marked(page, technology, kind, millimetres, told):
    wires = {"h1-h2": (kind, millimetres, 1)}
    shown(page, [{"technology": technology, "reuse": 1, "gradient": 4, "wires": wires}])
    state = "return [document.getElementById('panel-state').textContent, " \
            "document.getElementById('panel-results').className]"  # fmt: skip
    assert page.execute_script(state) == [told, "stale"]


@pytest.mark.parametrize("width", [390, 1200])
def test_it_fits_a_screen(page, width):
    phone = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    assert page.execute_script("return document.getElementById('panel-form').scrollWidth") <= width


def test_on_paper_the_numbers_stay_and_the_form_goes(page):
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shows = "return ['form', 'results'].map((id) => document.getElementById('panel-' + id).offsetHeight > 0)"
    try:
        assert page.execute_script(shows) == [False, True]
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen"})


def test_only_its_own_script_may_run(page):
    page.execute_script("document.body.append(Object.assign(document.createElement('script'), {text: 'stranger = 1'}))")
    assert page.execute_script("return typeof stranger") == "undefined"
    [refused] = page.get_log("browser")
    assert "Content Security Policy" in refused["message"]


def test_names_of_a_user_stay_text(tmp_path, ledgers, technologies):
    evil = "</script><script>alert('x')</script>"
    made = summary({evil: ledgers["dtp"]}, technologies[:1])
    made = replace(made, prices=replace(made.prices, links={evil: made.prices.links["h1-h2"]}))
    text = render(tmp_path, made)
    assert evil not in text
    [content] = re.findall(r'id="panel-data">(.*?)</script>', text)
    assert list(json.loads(content)["links"]) == [evil]


def test_summary_is_read_as_written(tmp_path, ledgers, technologies):
    made = summary(ledgers, technologies)
    made.save(tmp_path)
    assert Summary.load(tmp_path) == made


def test_inference_is_told_to_be_as_exported_or_why_not(tmp_path, ledgers, technologies):
    made = summary({"dtp": ledgers["dtp"], "backprop": ledgers["backprop"]}, technologies[:1])
    text, whole = render(tmp_path, made), "Inference is that of the network as exported: whole numbers, "
    assert whole in text and "but for rules named below" not in text and "as simulated" not in text
    rows = (made.rows[0], replace(made.rows[1], not_as_exported="link h1-h2 has no table"))
    text = render(tmp_path, replace(made, rows=rows))
    assert whole in text and "but for rules named below" in text
    why = "backprop: inference is priced as simulated, since it cannot be exported: link h1-h2 has no table"
    assert f"<li>{why}</li>" in text
    assert whole not in render(tmp_path, replace(made, prices=None))


def test_bands_of_ratios_are_told(tmp_path, ledgers, technologies):
    made = summary({name: ledgers[name] for name in ("dtp", "straight-through")}, technologies[:2])
    text = html.unescape(re.sub(r"</?strong>", "", render(tmp_path, made)))
    told = []
    for technology in technologies[:2]:
        band = ratio(*(price(ledgers[row.rule], HardwareConfig.parse(PLACEMENT), technology) for row in made.rows))
        told.append(f"{band.low:.2f} to {band.high:.2f} times")
    assert f"dtp costs {told[0]} as much as straight-through at 45nm and {told[1]} at 7nm." in text
    assert made.rows[1].ratios == {} and "straight-through costs" not in text


def test_older_summaries_have_no_panel(tmp_path, ledgers, technologies):
    made = summary({"dtp": ledgers["dtp"]}, technologies[:1])
    old = replace(made, prices=None, rows=tuple(replace(row, counts=None, energy_tree={}) for row in made.rows))
    text = render(tmp_path, old)
    assert "The summary has no counts to price again: nothing was trained, or an older version wrote it." in text
    assert "<script" not in text and "script-src" not in text and "Where the joules" not in text


def test_without_straight_through_nothing_breaks_even(tmp_path, ledgers, technologies):
    text = render(tmp_path, summary({"dtp": ledgers["dtp"]}, technologies[:1]))
    assert '<select name="technology"' in text and 'type="range" name="gradient"' not in text
    assert 'data-of="total"' in text and 'data-of="even-bits"' not in text


def test_straight_through_is_estimated_where_it_was_not_trained(technologies):
    binary = {"h1-h2": {"forward": "binary", "feedback": "binary"}}
    compared = Comparison.load("digits", sizes=[64, 20, 15, 10], epochs=1, links=binary)
    ledger = estimate(compared.experiment("straight-through", 0)).training
    trained = Ledger(epochs=1, samples=ledger.samples)
    made = _baseline(compared.experiment("dtp", 0), [], [trained], HardwareConfig.parse(PLACEMENT), technologies)
    assert made.links == ["h1-h2"] and made.estimated
    bill = price(ledger, HardwareConfig.parse(PLACEMENT), technologies[0]).per("sample")
    assert made.counts.compute["45nm"].typical == near(bill.by("part")["compute"].typical)
    assert made.counts.most_reuse == 50
    up, down = (m for m in made.counts.messages if m.link == "h1-h2")
    assert (up.bits, up.messages, up.toggles) == (20, 1, near(10 - 10 / ledger.samples)) and down.bits == 20 * 32


def test_no_baseline_for_what_straight_through_does_not_learn(technologies):
    compared, trained = Comparison.load("digits", sizes=[64, 20, 15, 10]), Ledger(epochs=1, steps=1, samples=50)
    for rule in ("vector-quantization", "dtp"):  # another task; no link of few bits
        assert _baseline(compared.experiment(rule, 0), [], [trained], HardwareConfig(), technologies) is None
    compared = Comparison.load("digits", epochs=0)
    assert _baseline(compared.experiment("dtp", 0), [], [Ledger()], HardwareConfig(), technologies) is None


def test_blocks_of_the_picture_are_as_tall_as_their_shares(tmp_path, ledgers, technologies):
    made = summary({"dtp": ledgers["dtp"]}, technologies[:1])
    picture = render(tmp_path, made).partition('aria-labelledby="breakdown-1-title')[2].partition("</svg>")[0]
    heights: dict[str, float] = {}
    for x, height in re.findall(r'<rect x="(\d+)" y="[\d.]+" width="\d+" height="([\d.]+)"', picture):
        heights[x] = heights.get(x, 0) + float(height)
    assert [*heights.values()] == [pytest.approx(400, abs=0.2)] * 3
    parts = made.rows[0].energy_parts["45nm"]["training"]
    total = made.rows[0].joules_per_sample["45nm"].typical
    first = [float(h) for h in re.findall(r'<rect x="0" y="[\d.]+" width="\d+" height="([\d.]+)"', picture)]
    assert first == [pytest.approx(400 * parts[p].typical / total, abs=0.01) for p in ("link", "compute", "memory")]
    tree = made.rows[0].energy_tree["45nm"]
    assert sum(x for places in tree.values() for of in places.values() for x in of.values()) == near(total)
    assert tree["link"]["h1-h2"]["target"] == near(50 * 1e-11)
