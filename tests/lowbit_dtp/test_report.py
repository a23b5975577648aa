import base64
import html
import io
import json
import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps, image

from lowbit_dtp.report import ranking, render, write_report
from lowbit_dtp.storage import StorageError, read_json, read_tensors, write_json, write_tensors

SIZES = {"input": 784, "h1": 500, "h2": 500, "output": 10}
LINKS = ["input-h1", "h1-h2", "h2-output"]
# rule: final test error, (forward, feedback) on h1-h2, bits forward and feedback there, training joules at 45 nm
RULES = {
    "dtp": (2.61, ("binary", "binary"), (1000, 1500), 1.93e-5),
    "straight-through": (1.84, ("binary", "float32"), (500, 16000), 1.21e-5),
    "straight-through@fixed(4,-2)": (1.97, ("binary", "fixed(4,-2)"), (500, 2000), 1.17e-5),
    "fixed-lower": (3.02, ("binary", "none"), (500, 0), 6.4e-6),
    "backprop": (1.86, ("float32", "float32"), (16000, 16000), 1.38e-5),
}


def energies(typical: float) -> dict[str, dict[str, float]]:
    return {
        name: {"low": 0.6 * e, "typical": e, "high": 1.9 * e} for name, e in [("45nm", typical), ("7nm", typical / 4)]
    }


def parts(typical: float) -> dict[str, dict[str, float]]:
    shares = {"link": 0.04, "compute": 0.3, "memory": 0.66}
    return {
        name: {part: {end: share * joules for end, joules in total.items()} for part, share in shares.items()}
        for name, total in energies(typical).items()
    }


def row(rule: str, seeds: int) -> dict:
    error, formats, crossed, joules = RULES[rule]
    traffic = {"input-h1": (6272, 0), "h1-h2": crossed, "h2-output": (16000, 16000)}
    folder = re.sub(r"[^A-Za-z0-9._-]", "_", rule)
    return {
        "rule": rule,
        "folder": folder,
        "seeds": seeds,
        "runs": {str(seed): f"{folder}/seed-{seed}" for seed in range(seeds)},
        "test_error_percent": {"mean": error, "std": 0.11 if seeds > 1 else 0.0},
        "valid_error_percent": {"mean": error + 0.2, "std": 0.09 if seeds > 1 else 0.0},
        "links": {
            link: {
                "width": 500,
                "forward": {
                    "format": formats[0] if link == "h1-h2" else "ufixed(8,0)" if link == "input-h1" else "float32",
                    "bits_per_sample": forward,
                    "bytes_padded_per_sample": -(-forward // 8),
                    "ones_per_sample": 0.5 * forward,
                    "toggles_per_sample": 0.23 * forward,
                    "bits_per_inference": min(forward, 500) if link == "h1-h2" else forward,
                },
                "feedback": {
                    "format": formats[1] if link == "h1-h2" else "float32",
                    "bits_per_sample": feedback,
                    "bytes_padded_per_sample": -(-feedback // 8),
                    "ones_per_sample": 0.5 * feedback,
                    "toggles_per_sample": 0.35 * feedback,
                    "bits_per_inference": 0,
                },
            }
            for link, (forward, feedback) in traffic.items()
        },
        "joules_per_sample": energies(joules),
        "joules_per_inference": energies(joules / 5),
        "energy_parts": {
            name: {"training": parts(joules)[name], "inference": parts(joules / 5)[name]} for name in ("45nm", "7nm")
        },
        "links_share": {"45nm": 0.04, "7nm": 0.04},
        "break_even_gradient_bits": {"h1-h2": 4.0} if rule == "dtp" else {},
        "seconds_per_epoch": 0.83,
        "device": "cpu",
    }


def comparison(folder: Path, rules=tuple(RULES), seeds: int = 3, epochs: int = 20) -> Path:
    """A comparison folder as `lowbit-dtp compare` leaves it, of a network nobody trained."""
    stream = np.random.default_rng(0)
    names = list(SIZES)
    description = {
        "input": {"name": "input", "neurons": 784},
        "layers": [{"name": name, "neurons": SIZES[name], "activation": "tanh"} for name in names[1:]],
        "links": [
            {"lower": lower, "upper": upper, "forward": "binary", "feedback": "binary"}
            for lower, upper in pairwise(names)
        ],
    }
    rows = [row(rule, seeds) for rule in rules]
    summary = {
        "rows": rows,
        "network": description,
        "data": {"name": "mnist", "source": "a cache folder", "image_shape": [28, 28], "input_format": "ufixed(8,0)"},
        "experiment": {"sizes": [784, 500, 500, 10], "seed": 0, "links": {"h1-h2": "binary"}, "rule": {"noise": 0.5}},
        "placement": "h1-h2=board, all others on-die",
        "command": "lowbit-dtp compare --data mnist --epochs 20 --seeds 3",
        "versions": {"lowbit-dtp": "0.1.0", "python": "3.11.2"},
        "commit": "0123abcd",
        "machine": "x86_64, 2 cores",
        "exported": {
            "rule": "dtp",
            "target": "c",
            "weights": "fixed(8,1)",
            "signals": {"h2-output": "fixed(8,1)"},
            "folder": "export-c",
            "verify": "passed",
            "test_error_percent_float": 2.61,
            "test_error_percent_integer": 2.7,
            "files": 12,
        },
    }
    write_json(folder / "summary.json", summary)
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 28), np.linspace(-1, 1, 28)), -1).reshape(784, 2)
    waves = np.sin(grid @ stream.normal(0, 4, (2, 500)) + stream.uniform(0, 6, 500))
    for one in rows:
        final = one["test_error_percent"]["mean"]
        for seed in range(seeds):
            run = folder / one["folder"] / f"seed-{seed}"
            write_tensors(run / "network.safetensors", {"h1.weight": waves.astype(np.float32)}, description)
            lines = []
            for epoch in range(1, epochs + 1):
                test = final * (1 + 2.6 * math.exp(-epoch / 4)) * stream.uniform(0.95, 1.05)
                lines.append(
                    {"epoch": epoch, "test_error_percent": test, "valid_error_percent": test + 0.2, "seconds": 0.8}
                )
            (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Shared by tests that only read it."""
    return comparison(tmp_path_factory.mktemp("comparison"))


def change(folder: Path, **fields) -> Path:
    """Put `fields` into the summary in `folder`."""
    path = folder / "summary.json"
    write_json(path, read_json(path) | fields)
    return folder


def words(page: str) -> str:
    """What a reader sees, with single spaces."""
    body = re.sub(r"<(style|svg).*?</\1>", " ", page, flags=re.DOTALL)
    text = re.sub(r"<[^>]+>", " ", re.sub(r"</?strong>", "", body))
    return " ".join(html.unescape(text).split())


class Elements(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_findings_say_who_is_best_whoever_it_is_and_name_ties(folder):
    assert (
        "The lowest test error is 1.84 %, with straight-through; next is 1.86 %, with backprop. "
        "These differ by no more than a standard deviation over seeds. "
        "The lowest traffic, forward and feedback together, over link h1-h2 is 500 bits a training sample, "
        "with fixed-lower; next is 2 500 bits, with dtp and straight-through@fixed(4,-2). "
        "The lowest energy at 45nm is 6.40 µJ a training sample, with fixed-lower; "
        "next is 11.7 µJ, with straight-through@fixed(4,-2). "
        "The lowest energy at 7nm is 1.60 µJ a training sample, with fixed-lower; "
        "next is 2.93 µJ, with straight-through@fixed(4,-2). "
        "Of that energy links take 4 % at 45nm and 4 % at 7nm."
    ) in words(render(folder))


def test_every_number_of_a_row_is_on_its_line(folder):
    text = words(render(folder))
    assert (
        "dtp 2.61 ± 0.11 % 2.81 ± 0.09 % 1 000 1 500 23 272 17 500 "
        "19.3 µJ 11.6 to 36.7 µJ links 4 % 4.83 µJ 2.90 to 9.17 µJ links 4 % 830 ms cpu"
    ) in text
    assert (
        "dtp input-h1 ufixed(8,0) float32 6 272 0 1 443 0 6 272 0 h1-h2 binary binary 1 000 1 500 230 525 500 0" in text
    )
    assert (
        "dtp 45nm 772 nJ 0.46 to 1.47 µJ 5.79 µJ 3.47 to 11.0 µJ 12.7 µJ 7.64 to 24.2 µJ 19.3 µJ 11.6 to 36.7 µJ"
        in text
    )


def test_break_even_export_and_how_to_repeat_it_are_told(folder):
    text = words(render(folder))
    for told in (
        "Break-even: on link h1-h2, dtp sends as many bits in a training sample as straight-through does with a "
        "gradient of 4 bits. With a narrower gradient straight-through sends fewer, with a wider one more.",
        "The network of dtp was exported as c, 12 files; verification: passed. Quantizing its weights takes the test "
        "error from 2.61 % to 2.70 % (+0.09 points). weights fixed(8,1) signals h2-output fixed(8,1) folder export-c",
        "To repeat this lowbit-dtp compare --data mnist --epochs 20 --seeds 3 seeds dtp: 0, 1, 2; straight-through: ",
        "commit 0123abcd machine x86_64, 2 cores versions lowbit-dtp 0.1.0, python 3.11.2",
        "data mnist, from a cache folder; inputs as ufixed(8,0) placement h1-h2=board, all others on-die",
        "Settings sizes [784, 500, 500, 10] seed 0 links.h1-h2 binary rule.noise 0.5",
        "Weights from the inputs to the first 40 of 500 neurons, dtp, seed 0.",
    ):
        assert told in text


def test_arrows_are_as_thick_as_the_bits_that_cross(folder):
    page = render(folder)
    drawing = page[page.index('aria-labelledby="net-1-title') : page.index('aria-labelledby="net-2-title')]
    thickness = {}
    for way, points in re.findall(r'<polygon class="(\w+)" points="([^"]*)"', drawing):
        corners = [float(point.split(",")[0]) for point in points.split()]
        thickness.setdefault(way, []).append(corners[-1] - corners[0])
    assert thickness["forward"] == pytest.approx([46 * 6272 / 16000, 46 * 1000 / 16000, 46], abs=0.11)
    assert thickness["feedback"] == pytest.approx([46 * 1500 / 16000, 46], abs=0.11), "none down to the inputs"
    assert "h1-h2 forward 1\u202f000 bits; h1-h2 feedback 1\u202f500 bits" in drawing


def test_each_rule_is_drawn_on_its_own_network(folder, tmp_path):
    summary = read_json(folder / "summary.json")
    dtp, direct, *_ = summary["rows"]
    direct["network"] = {
        "input": {"name": "input", "neurons": 784},
        "layers": [{"name": name, "neurons": n} for name, n in (("h1", 40), ("h2", 30), ("output", 10))],
        "links": [
            *summary["network"]["links"],
            {"lower": "h1", "upper": "output", "forward": "float32", "feedback": "ternary", "label": "output-h1"},
        ],
    }
    direct["links"]["output-h1"] = {**dtp["links"]["h1-h2"], "feedback": dtp["links"]["h2-output"]["feedback"]}
    direct["links"]["output-h1"]["forward"] = {**dtp["links"]["h1-h2"]["forward"], "bits_per_sample": 0}
    summary["rows"] = [dtp, direct]
    write_json(tmp_path / "summary.json", summary)
    page = render(tmp_path)
    first, second = (page[page.index(f'aria-labelledby="net-{i}-title') :].split("</svg>")[0] for i in (1, 2))
    for drawing, neurons in ((first, 500), (second, 40)):
        assert re.search(rf">h1</tspan> · {neurons}<", drawing)
    assert "output-h1 feedback 16\u202f000 bits." in second
    [path] = re.findall(r'<path class="side (\w+)" d="M302,(\S+) H\S+ V(\S+) H\S+" stroke-width="(\S+)"', second)
    boxes = re.findall(r'<rect class="box" x="100" y="(\S+)".*\n.*>(\w+)</tspan>', second)
    middles = {name: float(y) + 17 for y, name in boxes}
    assert path == ("feedback", f"{middles['output']:.1f}", f"{middles['h1']:.1f}", "46.0")
    assert "side" not in first
    assert "Network 784-500-500-10, 784-40-30-10 ·" in words(page)


def test_same_files_same_page(folder):
    path = write_report(folder)
    assert path == folder / "report.html"
    assert path.read_text() == render(folder)


def test_ids_are_unique_and_references_lead_somewhere(folder):
    page = render(folder)
    ids = [attributes["id"] for _, attributes in Elements(page).found if "id" in attributes]
    assert len(ids) == len(set(ids))
    references = {name for names in re.findall(r'aria-labelledby="([^"]*)"', page) for name in names.split()}
    references |= set(re.findall(r'(?:href="#|url\(#)([^")]*)', page))
    assert references and references <= set(ids)


def test_whatever_a_user_wrote_stays_text(tmp_path):
    evil = '<script>alert("x")</script>&$x_1$'
    folder = comparison(tmp_path, rules=("dtp", "backprop"), seeds=1, epochs=2)
    summary = read_json(folder / "summary.json")
    rows = [summary["rows"][0] | {"rule": evil, "device": evil}, summary["rows"][1]]
    for one in rows:
        one["links"]["h1-h2"]["forward"]["format"] = evil
    told = dict.fromkeys(("command", "commit", "machine", "placement"), evil) | {"versions": {evil: evil}}
    names = {"data": summary["data"] | {"name": evil, "source": evil}, "experiment": {evil: evil}}
    exported = summary["exported"] | dict.fromkeys(("rule", "target", "weights", "folder", "verify"), evil)
    page = render(change(folder, rows=rows, exported=exported, **told, **names))
    assert not [tag for tag, _ in Elements(page).found if tag == "script"]
    assert words(page).count(evil) > 15


def test_one_rule_of_one_seed_claims_no_comparison_and_no_spread(tmp_path):
    page = render(comparison(tmp_path, rules=("dtp",), seeds=1, epochs=1))
    text = words(page)
    assert (
        "Network 784-500-500-10 · dtp · 1 epoch · 1 seed a rule With dtp, test error is 2.61 %. "
        "Only one seed was run, so chance is not ruled out. "
        "With dtp, traffic, forward and feedback together, over link h1-h2 is 2 500 bits a training sample."
    ) in text
    assert "lowest" not in text.lower() and "±" not in text and 'class="best"' not in page


def test_nothing_exported_priced_or_drawn_is_said(tmp_path):
    folder = comparison(tmp_path, rules=("dtp",), seeds=1, epochs=1)
    summary = read_json(folder / "summary.json")
    one = summary["rows"][0] | {
        "joules_per_sample": {},
        "joules_per_inference": {},
        "energy_parts": {},
        "links_share": None,
    }
    data = summary["data"] | {"image_shape": None}
    text = words(
        render(change(folder, rows=[one], exported=None, not_exported="it was not requested", commit=None, data=data))
    )
    for told in (
        "No network was exported: it was not requested.",
        "Nothing was priced.",
        "No filters are drawn: the samples are not pictures, grey or of three colours.",
        "commit not known",
    ):
        assert told in text


@pytest.mark.parametrize(
    ("shape", "remove", "reason"),
    [
        ([8, 8], False, "a neuron has 784 weights, and a picture 64 inputs"),
        ([28, 28], True, "dtp/seed-0/network.safetensors: no such file"),
    ],
)
def test_filters_that_cannot_be_drawn_say_why(tmp_path, shape, remove, reason):
    folder = comparison(tmp_path, rules=("dtp",), seeds=1, epochs=1)
    if remove:
        (folder / "dtp" / "seed-0" / "network.safetensors").unlink()
    data = read_json(folder / "summary.json")["data"] | {"image_shape": shape}
    assert f"No filters are drawn: {reason}." in words(render(change(folder, data=data)))


@pytest.mark.parametrize(("shape", "said"), [([28, 28], "Orange is positive"), ([3, 14, 14], "Red, green and blue")])
def test_first_layer_drawn_grey_or_in_colour(tmp_path, shape, said):
    folder = comparison(tmp_path, rules=("dtp",), seeds=1, epochs=1)
    run, size = folder / "dtp" / "seed-0", math.prod(shape)
    _, description = read_tensors(run / "network.safetensors")
    weight = np.zeros((size, 2), np.float32)
    weight[0, 0], weight[-1, 0] = 2, -1  # the first channel's first pixel; the last one's last
    write_tensors(run / "network.safetensors", {"h1.weight": weight}, description)
    page = render(change(folder, data=read_json(folder / "summary.json")["data"] | {"image_shape": shape}))
    assert said in words(page)
    png = base64.b64decode(re.search(r"data:image/png;base64,([^\"]+)", page)[1])
    picture = image.imread(io.BytesIO(png))[..., :3]
    tall, wide = shape[-2:]
    assert picture.shape == (tall, 2 * wide + 1, 3)
    first, last, zero = (picture[at] * 255 for at in ((0, 0), (tall - 1, wide - 1), (1, 1)))
    if len(shape) == 3:
        assert np.abs([first, last, zero] - np.array([[255, 128, 128], [128, 128, 64], [128] * 3])).max() <= 1
    else:
        colours = colormaps["PuOr_r"]([1.0, 0.25, 0.5])[:, :3] * 255
        assert np.abs([first, last, zero] - colours).max() <= 1
    assert (picture[:, wide] == 1).all()


def test_seeds_without_metrics_are_left_out_and_named(tmp_path):
    folder = comparison(tmp_path, rules=("dtp", "backprop"), epochs=2)
    whole = render(folder)
    (folder / "dtp" / "seed-1" / "metrics.jsonl").unlink()
    (folder / "backprop" / "seed-2" / "metrics.jsonl").write_text('{"epoch": 1, "test_err')
    page = render(folder)
    assert (
        "dtp: seed 1 has no metrics.jsonl, so the curves leave it out "
        "backprop: the metrics.jsonl of seed 2 is broken, so the curves leave it out"
    ) in words(page)
    described = r"<desc[^>]*>Mean over seeds, with a band .*?</desc>"
    assert re.findall(described, page) != re.findall(described, whole)


def test_curves_are_means_over_seeds(tmp_path):
    folder = comparison(tmp_path, rules=("dtp",), seeds=2, epochs=1)
    for seed, error in enumerate((3.0, 4.0)):
        line = {"epoch": 1, "test_error_percent": error, "valid_error_percent": error + 1}
        (folder / "dtp" / f"seed-{seed}" / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    page = render(folder)
    told = "Mean over seeds, with a band of one standard deviation to each side. dtp {}\xa0% after epoch 1."
    assert told.format("3.50") in page and told.format("4.50") in page


def test_flips_and_zeros_are_drawn_by_epoch(tmp_path):
    folder = comparison(tmp_path, rules=("dtp", "straight-through"), seeds=2)
    assert "Flips and zeros over epochs" not in words(render(folder))
    for seed, flips in enumerate(([300, 400], [100, 400])):
        lines = [
            {"epoch": i + 1, "test_error_percent": 3.0, "valid_error_percent": 3.0, "samples": 200 * (i + 1)}
            | {"flips": {"h1-h2": flips[i]}, "zeros": {}}
            for i in range(2)
        ]
        path = folder / "dtp" / f"seed-{seed}" / "metrics.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = render(folder)
    assert "Flips and zeros over epochs" in words(page)
    assert "A training sample. dtp 1 in epoch 2." in page  # 100 and 300 flips in 200 samples
    assert "Zeros among the codes" not in page


def test_error_is_drawn_against_bits_with_the_front(folder, tmp_path):
    page = render(folder)
    assert "Test error over bits on h1-h2, forward and feedback" in page
    assert "On the front: fixed-lower, straight-through@fixed(4,-2), straight-through; with coded bits:" in page
    assert "Error against bits" not in words(render(comparison(tmp_path, rules=("dtp",))))


def diagnosed(folder: Path, rule: str, **by_layer: float) -> None:
    """Write a `diagnosis.jsonl` of two epochs for each seed of `rule`, with angles of the layers in degrees."""
    for seed in range(3):
        lines = [
            {
                "epoch": epoch,
                "as_trained": {layer: {"angle_degrees": angle + seed - 1} for layer, angle in by_layer.items()},
                "float": {
                    "h1": {"angle_degrees": None, "largest_singular_value": 0.5},
                    "h2": {"angle_degrees": by_layer["h2"] + seed - 1},
                },
            }
            for epoch in (1, 2)
        ]
        path = folder / rule / f"seed-{seed}" / "diagnosis.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_diagnoses_are_drawn_for_each_layer_of_the_rules_that_have_them(tmp_path):
    folder = comparison(tmp_path, ("dtp", "backprop"))
    assert "Updates and targets" not in render(folder)
    diagnosed(folder, "dtp", h1=70.0, h2=12.5)
    page = render(folder)
    assert "Updates and targets, layer by layer" in page
    angles, singular = (re.search(rf'id="diagnosis-0-{name}-desc">([^<]*)', page)[1] for name in
                        ("angle_degrees", "largest_singular_value"))  # fmt: skip
    assert angles == "h1 70° after epoch 2; h2 12.5° after epoch 2."  # with float links, h2 is the same
    assert singular == "h1, float links 0.5 after epoch 2."
    assert "diagnosis-1-" not in page and "reconstruction_error-desc" not in page


@pytest.mark.parametrize("line", ["{", "[1]", '{"as_trained": {}}', '{"epoch": 1, "float": {"h1": 3}}'])
def test_a_broken_diagnosis_is_left_out_and_named(line, tmp_path):
    folder = comparison(tmp_path, ("dtp",))
    diagnosed(folder, "dtp", h1=70.0, h2=12.5)
    (folder / "dtp" / "seed-1" / "diagnosis.jsonl").write_text(line + "\n")
    page = render(folder)
    assert "the diagnosis.jsonl of seed 1 is broken" in page
    assert "h1 70° after epoch 2" in page


def test_no_metrics_at_all_still_gives_a_page(tmp_path):
    folder = comparison(tmp_path, rules=("dtp",), seeds=1, epochs=1)
    (folder / "dtp" / "seed-0" / "metrics.jsonl").unlink()
    assert "No curves can be drawn." in words(render(folder))


def test_an_error_that_is_not_finite_is_never_the_lowest(tmp_path):
    folder = comparison(tmp_path, rules=("dtp", "backprop"), epochs=1)
    rows = read_json(folder / "summary.json")["rows"]
    rows[1]["test_error_percent"] = {"mean": math.nan, "std": math.nan}
    text = words(render(change(folder, rows=rows)))
    assert "With dtp, test error is 2.61 %; no other rule ended with a number." in text
    assert "backprop not finite" in text


def test_rules_that_tie_are_told_alike(tmp_path):
    folder = comparison(tmp_path, rules=("dtp", "straight-through@fixed(4,-2)"), seeds=1, epochs=1)
    told = "With dtp and straight-through@fixed(4,-2), traffic, forward and feedback together, over link h1-h2 is 2 500"
    assert f"{told} bits a training sample alike." in words(render(folder))


def test_ranking_of_nothing_finite_has_no_least():
    assert ranking([math.nan, math.inf]).least == []


def test_a_folder_without_summary_is_refused(tmp_path):
    with pytest.raises(StorageError, match=f"^{re.escape(str(tmp_path / 'summary.json'))}: no such file$"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "KeyError: 'rows'"),
        ({"rows": []}, "LookupError: it has no rows"),
        ({"rows": [{}], "network": {"links": []}, "exported": None}, "KeyError: 'seeds'"),
    ],
)
def test_a_broken_summary_is_refused_by_name(tmp_path, fields, reason):
    write_json(tmp_path / "summary.json", fields)
    message = f"{tmp_path / 'summary.json'}: not the summary of a comparison ({reason})"
    with pytest.raises(StorageError, match=f"^{re.escape(message)}$"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_summary_that_lacks_what_only_the_page_shows_is_refused(folder, tmp_path):
    summary = read_json(folder / "summary.json")
    del summary["machine"]
    write_json(tmp_path / "summary.json", summary)
    message = f"{tmp_path / 'summary.json'}: not the summary of a comparison (KeyError: 'machine')"
    with pytest.raises(StorageError, match=f"^{re.escape(message)}$"):
        render(tmp_path)


def test_it_fits_on_paper(browser, folder):
    a4_less_margins = 688  # CSS inputs in 210 - 2 x 14 mm
    page = {"width": a4_less_margins, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", page)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    browser.get(write_report(folder).as_uri())
    try:
        assert browser.execute_script("return document.documentElement.scrollWidth") <= a4_less_margins
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen"})


@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_it_whole_without_errors_or_requests(browser, folder, width):
    path = write_report(folder)
    phone = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    browser.get_log("performance"), browser.get_log("browser")  # forget what came before
    browser.get(path.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script("return document.querySelector('img.inputs').naturalWidth") == 10 * 29 - 1
    hidden = (
        "return [...document.querySelectorAll('svg')].filter(svg => svg.getBoundingClientRect().height < 100).length"
    )
    assert browser.execute_script(hidden) == 0
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert path.as_uri() in asked
    assert [url for url in asked if url != path.as_uri() and not url.startswith("data:")] == []
