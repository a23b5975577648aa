"""Coded bits in the ledger: counted from the messages of training, kept in files, and named in summaries."""

import io
import json
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from lowbit_dtp import Comparison, checkpoint, compare, data
from lowbit_dtp import ledger as ledgers
from lowbit_dtp.backends.torch_gpu import tensor_of
from lowbit_dtp.cli import main
from lowbit_dtp.codings import BOUNDS, CODINGS, BusInvert, idle_word, symbols_of
from lowbit_dtp.commands.printing import print_summary
from lowbit_dtp.data import Samples
from lowbit_dtp.ensemble import Run, stack, unstack
from lowbit_dtp.experiment import Experiment, ExperimentError
from lowbit_dtp.formats import Codes, binary, binary01, fixed, float32, shared, symmetric, table, ternary, ufixed
from lowbit_dtp.layers import Layer
from lowbit_dtp.ledger import Direction, Ledger
from lowbit_dtp.links import Link, Signal
from lowbit_dtp.network import Network
from lowbit_dtp.optimizers import RMSprop
from lowbit_dtp.rules import DTP, GeneRec, LearningRule, StraightThrough
from lowbit_dtp.summary import Summary
from lowbit_dtp.training import Evaluator, Progress, fit

FORWARD, FEEDBACK = Direction.FORWARD, Direction.FEEDBACK
SIZES, BATCH = [64, 30, 25, 10], 20
LINKS = [Link("ufixed(5,1)"), Link("binary", "binary"), Link()]
ALL = (*CODINGS, *BOUNDS)


@pytest.fixture(scope="module")
def few() -> Samples:
    train = data.load("digits").train
    return Samples(train.stored[:90], train.labels[:90], train.format)


def trained(
    samples: Samples, codings: Any = "all", rule: LearningRule | None = None, mode: str = "plain", epochs: int = 2
) -> Run:
    run = Run(Network.build(SIZES, LINKS, seed=3), RMSprop(0.002, 0.001), Progress(ledger=Ledger(codings=codings)))
    for _ in fit(run.net, rule or DTP(target_step=3.0), run.optimizer, samples, epochs, BATCH, 7, run.progress, mode):
        pass
    return run


# --- the counts -------------------------------------------------------------------------------------------------------


def sent_while(work: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> list[tuple[Link, Direction, str, Codes]]:
    """The codes of every message that `work` sends, in order."""
    messages, send = [], Link.send

    def noting(self: Link, x: Any, direction: Direction, purpose: str, *more: Any) -> Signal:
        signal = send(self, x, direction, purpose, *more)
        messages.append((self, direction, purpose, np.array(signal.codes)))
        return signal

    monkeypatch.setattr(Link, "send", noting)
    work()
    return messages


@pytest.mark.parametrize(
    "rule", [DTP(target_step=3.0), StraightThrough("ternary*0.05"), GeneRec(steps=2)], ids=lambda rule: rule.name
)
def test_counts_are_the_bits_of_the_messages_of_training(rule: LearningRule, few: Samples, monkeypatch) -> None:
    """Encoded one by one: a target with the state before it, and everything else by itself."""
    runs: list[Run] = []
    messages = sent_while(lambda: runs.append(trained(few, rule=rule, epochs=1)), monkeypatch)
    ledger = runs[0].progress.ledger
    expected: dict[tuple[str, str, str, str], int] = {}
    for i, (link, direction, purpose, codes) in enumerate(messages):
        wire = [m for m in messages[:i] if (m[0].name, m[1]) == (link.name, direction)]
        after = [m for m in messages[i + 1 :] if (m[0].name, m[1]) == (link.name, direction)]
        for name, coding in CODINGS.items():
            words = codes[None]
            if purpose == "target":
                assert wire[-1][2] == "state"
                words = np.stack([wire[-1][3], codes])
            elif purpose == "state":
                assert after[0][2] == "target"
                words = np.stack([codes, after[0][3]])
            fmt = link.format(direction)
            number = coding.bits(words, fmt)[-1 if purpose == "target" else 0].sum()
            assert coding.bits(words, fmt).sum() == len(coding.encode(words, fmt))
            key = (link.name, direction, purpose, name)
            expected[key] = expected.get(key, 0) + int(number)
    counted = {
        (kind.link, kind.direction, kind.purpose, name): bits
        for kind, by_name in ledger.coded.items()
        for name, bits in by_name.items()
        if name in CODINGS
    }
    assert counted == expected
    for kind, traffic in ledger.traffic.items():
        assert ledger.coded[kind]["plain"] == traffic.messages * kind.message_bits


@pytest.mark.parametrize("rule", [DTP(target_step=3.0), StraightThrough("ternary*0.05")], ids=lambda rule: rule.name)
def test_flips_and_zeros_are_those_of_the_messages_of_training(rule: LearningRule, few: Samples, monkeypatch) -> None:
    runs: list[Run] = []
    messages = sent_while(lambda: runs.append(trained(few, ["flip-entropy"], rule, epochs=1)), monkeypatch)
    down = [
        (purpose, codes)
        for link, direction, purpose, codes in messages
        if (link.name, direction) == ("h1-h2", FEEDBACK)
    ]
    flips = sum(int((down[i - 1][1] != codes).sum()) for i, (purpose, codes) in enumerate(down) if purpose == "target")
    zeros = sum(int((codes == 1).sum()) for purpose, codes in down if purpose == "error")  # code 1 of ternary is 0
    counts = runs[0].progress.ledger.coded_counts
    assert counts is not None
    expected = {"flips": {"h1-h2": flips}, "zeros": {}} if flips else {"flips": {}, "zeros": {"h1-h2": zeros}}
    assert counts.sparseness() == expected and flips + zeros > 0


def test_flips_and_zeros_of_members_of_an_ensemble(few: Samples) -> None:
    parts = [trained(few, rule=DTP(target_step=step), epochs=1).progress.ledger.coded_counts for step in (3.0, 0.1)]
    together = type(parts[0]).stacked(parts)
    assert [together.sparseness(member) for member in range(2)] == [part.sparseness() for part in parts]
    assert trained(few, ["flips"], epochs=1).progress.ledger.coded_counts.sparseness() == {"flips": {}, "zeros": {}}


def test_toggles_of_bus_invert_over_messages(few: Samples, monkeypatch) -> None:
    """The levels of all lines of each wire, one message after the other."""
    runs: list[Run] = []
    messages = sent_while(lambda: runs.append(trained(few, ["bus-invert"], epochs=1)), monkeypatch)
    ledger = runs[0].progress.ledger
    lines: dict[tuple[str, Direction], Any] = {}
    toggles = 0
    for link, direction, _, codes in messages:
        last = lines.get((link.name, direction))
        levels = BusInvert().lines(codes, link.format(direction), last)
        toggles += int((np.diff(levels, axis=0) != 0).sum() + (0 if last is None else (levels[0] != last).sum()))
        lines[link.name, direction] = levels[-1]
    # the first word on a wire is not inverted, whatever comes after it
    assert ledger.coded_toggles("bus-invert") == toggles
    assert toggles < ledger.toggles() and ledger.coded_toggles("bus-invert", "h1-h2", FEEDBACK) > 0


@pytest.mark.parametrize(("wires", "expected"), [(1, 0.5), (2, 0.75), (8, 837 / 256), (7, 372 / 128)])
def test_transitions_of_random_words(wires: int, expected: float) -> None:
    """Each word after each: Stan and Burleson, 1995, print 0.75 for a bus of 2 lines and 3.27 for 8, of 1 and 4."""
    fmt = ufixed(wires, 0)
    words = np.arange(2**wires, dtype=np.uint8)
    pairs = np.stack([np.repeat(words, len(words)), np.tile(words, len(words))], -1)[..., None]
    toggles = BusInvert().toggles(pairs, fmt, None)
    assert (toggles[:, 0] == 0).all() and toggles[:, 1].mean() == expected


def test_lines_change_as_counted_whatever_was_before() -> None:
    random = np.random.default_rng(0)
    for fmt, row in [(binary, 13), (fixed(3, 1), 7), (shared(4), 9), (float32, 2)]:
        codes = fmt.encode(random.normal(0, 1, (40, row)))
        whole = BusInvert().lines(codes, fmt)
        parts = [BusInvert().lines(codes[:11], fmt)]
        parts.append(BusInvert().lines(codes[11:], fmt, parts[0][-1]))
        np.testing.assert_array_equal(whole, np.concatenate(parts))
        toggles = BusInvert().toggles(codes[1:], fmt, codes[0])
        np.testing.assert_array_equal(toggles, (np.diff(whole.astype(int), axis=0) != 0).sum(-1))


def test_idle_codes() -> None:
    formats = (binary, binary01, ternary, fixed(4, 1), symmetric(2, -3), float32, table([-1, 1]), table([-2, 0, 3]))
    assert [symbols_of(fmt).idle for fmt in formats] == [0, 0, 1, 0, 0, 0, 0, 1]
    idle = [fmt.decode(np.array([symbols_of(fmt).idle], fmt.code_dtype)) for fmt in formats]
    assert np.concatenate(idle).tolist() == [-1, 0, 0, 0, 0, 0, -1, 0]
    assert shared(4).decode(idle_word(shared(4), 5)).tolist() == [0.0] * 5


def test_ternary_costs_a_bit_and_its_signs() -> None:
    codes = ternary.encode(np.array([[0, 1, 0, -1, 0, 0]]))[None]
    assert CODINGS["zero-skip"].bits(codes, ternary).tolist() == [[6 + 2]]
    assert CODINGS["zero-skip"].encode(codes, ternary).tolist() == [0, 1, 0, 1, 0, 0, 0, 1]


def test_silence_of_an_error_and_of_a_pair() -> None:
    zeros = ternary.encode(np.zeros((2, 1, 500)))
    assert CODINGS["silence"].bits(zeros[:1], ternary).tolist() == [[1]]
    random = binary.encode(np.random.default_rng(0).normal(size=(1, 1, 500)))
    pair = np.concatenate([random, random])
    assert CODINGS["silence"].bits(pair, binary).tolist() == [[1], [0]]
    pair[1, 0, 3] ^= 1
    assert CODINGS["silence"].bits(pair, binary).tolist() == [[1 + 1 + 500], [1 + 9 + 9]]


def test_silence_changes_no_bit_of_training(few: Samples, monkeypatch) -> None:
    """Idle words in place of each state and target that are equal: what a receiver has that was told nothing."""
    expected = {name: x.tobytes() for name, x in trained(few, ()).net.tensors().items()}
    plain, silent = Layer.decode_change, []

    def told_nothing(self: Layer, before: Signal, after: Signal, *more: Any) -> Any:
        exchange = np.stack([before.codes, after.codes])
        arrived = CODINGS["silence"].arrived(exchange, before.format)
        silent.extend((exchange[0] == exchange[1]).all(-1).tolist())
        words = (Signal(x, before.format, before.like, None, before.link) for x in arrived)
        return plain(self, *words, *more)

    monkeypatch.setattr(Layer, "decode_change", told_nothing)
    assert {name: x.tobytes() for name, x in trained(few, ()).net.tensors().items()} == expected
    assert any(silent) and not all(silent)


# --- bounds, and the best ---------------------------------------------------------------------------------------------


def sent(x: Any, link: Link, direction: Direction = FORWARD, purpose: str = "activations", **options: Any) -> Ledger:
    ledger = Ledger(**options)
    link.send(np.asarray(x, np.float32), direction, purpose, ledger)
    ledger.samples += len(x)
    return ledger


def test_entropy_of_codes_and_of_flips() -> None:
    link, ledger = Link("ternary", "ternary", "a", "b"), Ledger(codings=["entropy", "flip-entropy"])
    state = np.array([[1, 1, -1, -1, 0, 0, 0, 0]], np.float32)
    link.send(state, FEEDBACK, "state", ledger)
    link.send(np.where(np.arange(8) == 4, 1, state), FEEDBACK, "target", ledger)
    ledger.samples = 1
    flips = 8 * -(7 / 8 * np.log2(7 / 8) + 1 / 8 * np.log2(1 / 8))
    target = 3 * np.log2(8 / 3) * 2 + 2 * np.log2(8 / 2)
    assert ledger.coded_bits("entropy", "a-b", FEEDBACK, "state") == 2 * 2 * 2 + 4 * 1
    assert ledger.coded_bits("entropy", "a-b", FEEDBACK, "target") == np.ceil(target)
    assert ledger.coded_bits("flip-entropy", "a-b", FEEDBACK, "state") == 12
    assert ledger.coded_bits("flip-entropy", "a-b", FEEDBACK, "target") == np.ceil(flips)


@pytest.mark.parametrize("coding", ["plain", "zero-skip", "run-length"])
def test_no_coding_of_single_codes_is_below_the_entropy(coding: str, few: Samples) -> None:
    ledger = trained(few, [coding, "entropy"]).progress.ledger
    for kind, bits in ledger.coded.items():
        assert kind.bits > 16 or bits["entropy"] <= bits[coding]


def test_the_best_coding_of_each_direction(few: Samples) -> None:
    ledger = trained(few, rule=DTP()).progress.ledger
    for link in ledger.links():
        for direction in (FORWARD, FEEDBACK):
            if not any(ledger.message_types(link, direction)):
                continue
            bits = {name: ledger.coded_bits(name, link, direction) for name in CODINGS}
            assert bits[ledger.best_coding(link, direction)] == min(bits.values())
    assert ledger.best_coding("h1-h2", FEEDBACK) == "silence" and ledger.best_coding("h2-output", FORWARD) == "plain"
    zeros = sent(np.zeros((2, 40)), Link("ternary", lower="a", upper="b"), codings=["run-length", "entropy"])
    assert zeros.best_coding("a-b", FORWARD) == "run-length"
    assert (zeros.coded_bits("run-length"), zeros.coded_bits("entropy"), zeros.coded_bits("plain")) == (22, 0, 160)


def test_what_was_not_counted() -> None:
    link = Link("binary", "float32", "a", "b")
    x = np.ones((3, 4))
    without, some = sent(x, link), sent(x, link, codings=["events"])
    not_counted = "it was not counted; give the names of codings to count: Ledger(codings=[...]), or --codings"
    for message, work in [
        ("link a-b, forward 'activations': coding 'flips': " + not_counted, lambda: some.coded_bits("flips")),
        ("link a-b: " + not_counted, lambda: without.best_coding("a-b", FORWARD)),
        ("link a-b: nothing crossed feedback, so no coding is the best", lambda: some.best_coding("a-b", FEEDBACK)),
        (
            "link a-b, forward 'activations': coding 'events' was counted for 3 of 6 messages",
            lambda: (some + without).coded_bits("events"),
        ),
        (
            "link a-b, feedback 'error': no entropy of float32 is counted, which has more than 16 bits",
            lambda: sent(x, link, FEEDBACK, "error", codings="all").coded_bits("entropy"),
        ),
        (
            "no coding for parallel wires 'events'; there are: bus-invert",
            lambda: some.coded_toggles("events"),
        ),
        (f"no coding 'event'; there are: {', '.join(sorted(ALL))}", lambda: some.coded_bits("event")),
        (f"no coding 'event'; there are: {', '.join(sorted((*ALL, 'all')))}", lambda: Ledger(codings=["event"])),
    ]:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            work()
    assert without.coded == {} and without.coded_bits("plain") == 12
    assert sent(x, link, codings="events").codings == ("events",) and Ledger(codings="all").codings == ALL


def test_a_state_that_nothing_follows_is_a_message_by_itself() -> None:
    link, ledger = Link("binary", "binary", "a", "b"), Ledger(codings=["flips", "silence"])
    x = np.ones((1, 16), np.float32)
    for purpose in ("state", "reconstruction", "state", "state", "target", "target", "state"):
        link.send(x, FEEDBACK, purpose, ledger)
    bits = {kind.purpose: coded for kind, coded in ledger.coded.items()}
    # of four states, one is followed by its target
    assert bits["state"] == {"flips": 4 * 16, "silence": 3 * (1 + 1 + 16) + 1}
    assert bits["target"] == {"flips": 16 + 1 + 5, "silence": 0 + 1 + 1 + 16}
    assert bits["reconstruction"] == {"flips": 16, "silence": 1 + 1 + 16}
    link.send(x, FEEDBACK, "target", ledger)  # what was read has been counted
    assert {kind.purpose: coded for kind, coded in ledger.coded.items()}["target"]["silence"] == 2 * 18


# --- arrays, modes, ensembles -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", [binary, binary01, ternary, fixed(4, 1), symmetric(3, 1), shared(4), float32], ids=str)
def test_tensors_and_ensembles_count_as_arrays_do(fmt: Any) -> None:
    random = np.random.default_rng(0)
    members = (random.normal(0, 1, (2, 2, 5, 70)) * (random.random((2, 2, 5, 70)) < 0.2)).astype(np.float32)
    link, ends = Link(fmt, fmt, "a", "b"), ("state", "target")
    each = [Ledger(codings="all") for _ in range(2)]
    for i, ledger in enumerate(each):
        for x, purpose in zip(members[i], ends, strict=True):
            link.send(x, FEEDBACK, purpose, ledger)
            link.send(np.float32(-1) * x, FORWARD, "activations", ledger)
    for array in (np.array, lambda x: tensor_of(x.copy(), "cpu")):
        together = Ledger(2, codings="all")
        for x, purpose in zip(members.swapaxes(0, 1), ends, strict=True):
            link.send(array(x), FEEDBACK, purpose, together)
            link.send(array(-x), FORWARD, "activations", together)
        assert together.coded_counts is not None
        parts = [together.coded_counts.of_member(i, 2) for i in range(2)]
        assert parts == [ledger.coded_counts for ledger in each]
        stacked = type(parts[0]).stacked(parts)
        assert stacked == together.coded_counts


def test_seeds_in_one_batch_keep_their_own_counts(few: Samples) -> None:
    runs = [trained(few, epochs=1) for _ in range(2)]
    together = stack(runs, "cpu")
    before = [run.progress.ledger for run in unstack(together)]
    assert before == [run.progress.ledger for run in runs]
    samples = few.on("cpu")
    for _ in fit(together.net, DTP(), together.optimizer, samples, 2, BATCH, [7, 7], together.progress):
        pass
    one, two = (run.progress.ledger for run in unstack(together))
    assert one.codings == two.codings == ALL
    assert one.coded_bits("zero-skip", "input-h1") == 2 * before[0].coded_bits("zero-skip", "input-h1")
    for name in CODINGS:
        together_bits = together.progress.ledger.coded_bits(name)
        assert together_bits == (one.coded_bits(name) + two.coded_bits(name)) / 2


def test_counting_changes_nothing_else(few: Samples) -> None:
    with_, without = trained(few), trained(few, ())
    tensors = [{name: x.tobytes() for name, x in run.net.tensors().items()} for run in (with_, without)]
    assert tensors[0] == tensors[1]
    assert with_.progress.ledger.traffic == without.progress.ledger.traffic
    assert {"codings", "coded"} & set(without.progress.ledger.as_dict()) == set()


def test_steps_are_plain_where_codings_are_counted(few: Samples) -> None:
    message = "^codings are counted in Python, so steps are plain, not recorded$"
    with pytest.warns(UserWarning, match=message):
        recorded = trained(few, mode="recorded")
    assert recorded.progress.ledger == trained(few).progress.ledger == trained(few, mode="auto").progress.ledger


def test_inference_is_counted_too(few: Samples) -> None:
    ledger = Ledger(codings=["zero-skip"])
    Evaluator(Network.build(SIZES, LINKS), few)(ledger)
    codes = few.stored
    assert ledger.coded_bits("zero-skip", "input-h1") == codes.size + 5 * np.count_nonzero(codes)


# --- files ------------------------------------------------------------------------------------------------------------


def test_files_and_sums(few: Samples, tmp_path: Path) -> None:
    one = trained(few, epochs=1).progress.ledger
    ledgers.save(tmp_path / "ledger.json", training=one, inference=Ledger())
    again = ledgers.load(tmp_path / "ledger.json")["training"]
    assert again == one and again.coded == one.coded and again.codings == ALL
    both = one + again
    for kind, bits in one.coded.items():
        assert {name: both.coded[kind][name] for name in CODINGS} == {name: 2 * bits[name] for name in CODINGS}
        for name in BOUNDS:
            assert kind.bits > 16 or abs(both.coded[kind][name] - 2 * bits[name]) <= 1  # each rounded up
    assert both.coded_toggles("bus-invert") == one.coded_toggles("bus-invert")  # of a run
    assert both != one and again + both == both + again


def test_a_stopped_run_goes_on_with_its_counts(few: Samples, tmp_path: Path) -> None:
    whole = trained(few, epochs=2).progress.ledger
    net, optimizer, progress = Network.build(SIZES, LINKS, seed=3), RMSprop(0.002, 0.001), Progress()
    progress.ledger = Ledger(codings="all")
    rule, path = DTP(target_step=3.0), tmp_path / "checkpoint.safetensors"
    steps = fit(net, rule, optimizer, few, 2, BATCH, 7, progress, "plain")
    for _ in range(3):
        next(steps)
    checkpoint.save(path, net, optimizer, progress, {})
    net, optimizer = Network.build(SIZES, LINKS, seed=4), RMSprop(0.002, 0.001)
    progress, _ = checkpoint.load(path, net, optimizer)
    for _ in fit(net, rule, optimizer, few, 2, BATCH, 7, progress, "plain"):
        pass
    assert progress.ledger == whole


@pytest.mark.parametrize("damage", [lambda row: row.pop("coded_bits"), lambda row: row.update(coding="no"), None])
def test_a_file_with_damaged_counts(damage: Callable[[dict], Any] | None, tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    ledgers.save(path, training=sent(np.ones((1, 3)), Link("binary", lower="a", upper="b"), codings=["events"]))
    content = json.loads(path.read_text())
    if damage is None:
        del content["training"]["coded"]
    else:
        damage(content["training"]["coded"][0])
    path.write_text(json.dumps(content))
    with pytest.raises(ledgers.StorageError, match=f"^{re.escape(str(path))}: not a ledger \\("):
        ledgers.load(path)


def test_experiments_name_their_codings() -> None:
    comparison = Comparison.load("digits", codings=["flips", "events"])
    experiment = comparison.experiment("dtp", 0)
    assert experiment.codings == ["events", "flips"] and 'codings = [\n    "events",' in experiment.as_toml()
    assert replace(experiment, codings=["all"]).codings == list(ALL)
    assert "codings" not in Comparison.load("digits").experiment("dtp", 0).as_toml()
    known = ", ".join(sorted((*ALL, "all")))
    with pytest.raises(ExperimentError, match=f"^codings: no coding 'flip'; there are: {known}$"):
        replace(experiment, codings=["flip"])


def test_an_experiment_file_names_codings(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('codings = ["silence"]\n')
    assert Comparison.load(config=tmp_path / "mine.toml").experiment("dtp", 0).codings == ["silence"]
    (tmp_path / "mine.toml").write_text('codings = ["silent"]\n')
    message = f"{tmp_path}/mine.toml: codings: no coding 'silent'; there are: {', '.join(sorted((*ALL, 'all')))}"
    with pytest.raises(ExperimentError, match=f"^{re.escape(message)}$"):
        Comparison.load(config=tmp_path / "mine.toml")


# --- commands, summaries ----------------------------------------------------------------------------------------------


FEW_FLIPS = {"target_step": 0.176, "noise": 0.5, "learning_rate": 1.16e-3, "feedback_learning_rate": 2.01e-4}
"""Settings of DTP with targets that are near the states."""


def call(*arguments: Any) -> tuple[int, str, str]:
    """Status, standard output and standard error of a training by the command."""
    small = ("train", "--data", "digits", "--sizes", "64-20-20-10", "--link", "h1-h2=binary")
    small += tuple(x for name, value in FEW_FLIPS.items() for x in ("--set", f"rules.dtp.{name}={value}"))
    out, err, status = io.StringIO(), io.StringIO(), 0
    with mock.patch.object(sys, "argv", ["lowbit-dtp", *small, *map(str, arguments)]):
        try:
            with redirect_stdout(out), redirect_stderr(err):
                main()
        except SystemExit as end:
            status = int(end.code or 0)
    return status, out.getvalue(), err.getvalue()


def test_a_run_counts_codings_and_goes_on(tmp_path: Path) -> None:
    status, out, err = call("--epochs", 1, "--codings", "silence,flips", "--json", "--out", tmp_path)
    down = json.loads(out)["links"]["h1-h2"]["feedback"]
    assert status == 0 and "; codings are counted, so steps are plain\n" in err
    assert down["coding"] == "silence" and down["coded_bits_per_sample"] == down["bits_by_coding"]["silence"] < 60
    assert set(down["bits_by_coding"]) == {"silence", "flips"}
    assert Experiment.load(tmp_path / "experiment.toml").codings == ["flips", "silence"]
    assert call("--epochs", 2, "--codings", "flips,silence", "--out", tmp_path)[0] == 0
    book = ledgers.load(tmp_path / "ledger.json")
    assert book["training"].coded_bits("flips", per="sample") and book["inference"].coded_bits("flips", per="sample")
    status, _, err = call("--epochs", 2, "--out", tmp_path)
    other = f"{tmp_path}: holds a run with codings = ['flips', 'silence'], not []"
    assert status == 2 and f"{other}; choose another folder, or remove this one" in " ".join(err.split())
    status, _, err = call("--epochs", 2, "--codings", "flip", "--out", tmp_path)
    assert status == 2 and f"codings: no coding 'flip'; there are: {', '.join(sorted((*ALL, 'all')))}" in err


def test_metrics_have_flips_and_zeros_since_the_run_began(tmp_path: Path) -> None:
    for rule, name in (("dtp", "flips"), ("straight-through@ternary*0.05", "zeros")):
        folder = tmp_path / name
        assert call("--rule", rule, "--epochs", 2, "--codings", "flip-entropy", "--out", folder)[0] == 0
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        book = ledgers.load(folder / "ledger.json")["training"]
        assert [line["samples"] for line in lines] == [book.samples // 2, book.samples]
        assert {key: lines[-1][key] for key in ("flips", "zeros")} == book.coded_counts.sparseness()
        assert 0 < lines[0][name]["h1-h2"] < lines[1][name]["h1-h2"]


def test_summary_table_and_report_name_the_best_coding(tmp_path: Path, capsys, monkeypatch) -> None:
    comparison = Comparison.load(
        "digits", sizes=[64, 20, 20, 10], links={"h1-h2": {"forward": "binary", "feedback": "binary"}}, epochs=1,
        seeds=2, compare=["dtp", "straight-through@ternary*0.05"], codings=["all"], rules={"dtp": FEW_FLIPS},
    )  # fmt: skip
    summary = compare(comparison, tmp_path, export=False)
    assert Summary.load(tmp_path) == summary
    for row in summary.rows:
        down = row.links["h1-h2"].feedback
        assert down.coding and down.coded_bits_per_sample is not None
        assert down.coded_bits_per_sample == down.bits_by_coding[down.coding] < down.bits_per_sample
        assert down.bits_by_coding["plain"] == down.bits_per_sample
        assert row.links["input-h1"].feedback.coding is None
        assert "entropy" in down.bits_by_coding and "entropy" not in row.links["h2-output"].feedback.bits_by_coding
    monkeypatch.setenv("COLUMNS", "80")
    print_summary(summary)
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines())) <= 80 and "plain/silence" in table
    page = (tmp_path / "report.html").read_text()
    assert "Coded bits, training" in page and "<small>silence</small>" in page


def test_without_codings_a_report_has_no_column_for_them(tmp_path: Path) -> None:
    comparison = Comparison.load("digits", epochs=0, seeds=1, compare=["dtp"])
    summary = compare(comparison, tmp_path, export=False)
    assert summary.rows[0].links["h1-h2"].feedback.coding is None
    assert "Coded bits, training" not in (tmp_path / "report.html").read_text()
