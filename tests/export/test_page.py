"""The page of an export: drawn from its manifest, sealed with it."""

import re

import numpy as np
import pytest

from export import FixedNetwork, add_to_manifest, verified, write, write_page
from lowbit_dtp.storage import StorageError, read_json, write_json


@pytest.fixture
def folder(make_network, tmp_path):
    network = FixedNetwork.of(*make_network(), "4")
    write(network, "verilog", tmp_path / "out", np.full((2, 5), 0.5), {"fold": "h1=2x5"})
    return tmp_path / "out"


def test_the_drawing_has_each_layer_and_link(folder):
    manifest, page = read_json(folder / "manifest.json"), write_page(folder).read_text()
    text = re.sub(r"<[^>]+>", "\n", page)
    assert page.count("<rect") == len(manifest["layers"]) == 3
    for link in manifest["links"]:
        assert f"{link['name']}: {link['neurons']} x {link['format']}, {link['neurons'] * link['bits']} bits" in text
    for layer, hardware in zip(manifest["layers"], manifest["hardware"]["layers"], strict=True):
        assert f"sums of {layer['sum_bits']} bits" in text
        assert f"{hardware['cycles']:,} cycles a frame" in text
    assert "fold 2 x 5" in text and "Nothing was recorded" in text


def test_figures_of_the_command_and_of_a_build_are_shown(folder):
    accuracy = {"samples": 1000, "trained_error_percent": 2.0, "integer_error_percent": 2.25}
    accuracy |= {"lost_percent": 0.25, "agreement_percent": 99.5}
    figures = {"verification": "failed at link <x>", "accuracy": accuracy, "joules": {"45nm": "1 uJ (0.5 uJ to 2 uJ)"}}
    add_to_manifest(folder, figures=figures, build={"luts": 812, "tools": {"yosys": "0.23", "none": ""}})
    page = write_page(folder).read_text()
    assert '<td class="failed">failed at link &lt;x&gt;</td>' in page
    assert "2.25 %, so +0.25 points are lost; both networks agree on 99.50 %" in page
    assert "1 uJ (0.5 uJ to 2 uJ)" in page
    assert "<tr><th>Build: luts</th><td>812</td></tr>" in page and "<td>yosys 0.23</td>" in page


def test_the_page_is_sealed_and_made_again_alike(folder):
    path = write_page(folder)
    first = path.read_bytes()
    path.write_bytes(first.replace(b"neurons", b"neurnns", 1))
    assert verified(folder).status == f"failed at report.html, line {first[: first.index(b'neurons')].count(10) + 1}"
    assert write_page(folder).read_bytes() == first


def test_what_is_no_export_is_named(tmp_path):
    write_json(tmp_path / "manifest.json", {"target": "c"})
    with pytest.raises(StorageError) as error:
        write_page(tmp_path)
    path = tmp_path / "manifest.json"
    assert str(error.value) == f"{path}: not the manifest of an export (KeyError: 'links')"
