"""The page of an export: a drawing of its layers, what was verified, what was lost, and what a frame costs.

It is made of the manifest alone, so that `lowbit-dtp report FOLDER` writes it again when a build has added its figures.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lowbit_dtp.storage import StorageError, read_json, write_text

from .folder import MANIFEST, PAGE, add_to_manifest

BOX, GAP = 78, 64
"""Height of a layer and of a link in the drawing, in its units."""


def write_page(folder: Path) -> Path:
    """Write `report.html` into the export in `folder`, and return its path. StorageError if `folder` is no export."""
    folder = Path(folder)
    manifest = read_json(folder / MANIFEST)
    try:
        text = render(manifest)
    except (LookupError, TypeError, AttributeError) as error:
        raise StorageError(
            f"{folder / MANIFEST}: not the manifest of an export ({type(error).__name__}: {error})"
        ) from None
    write_text(folder / PAGE, text)
    add_to_manifest(folder)  # for the checksum of the page
    return folder / PAGE


def render(manifest: Mapping[str, Any]) -> str:
    """The page for a manifest."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["grouped"] = lambda number: f"{number:,}"
    return environment.get_template("page.html.jinja").render(
        manifest=manifest, blocks=blocks(manifest), box=BOX, gap=GAP, figures=manifest.get("figures", {})
    )


def blocks(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each layer with the link below it, the first one first: lines of text for the drawing."""
    folded = {x["name"]: x for x in manifest.get("hardware", {}).get("layers", [])}
    found = []
    for link, layer in zip(manifest["links"], manifest["layers"], strict=True):
        thresholds = layer.get("thresholds_per_neuron")
        lines = [
            f"{layer['neurons']:,} neurons, weights {layer['weights']['format'].removesuffix(',saturate-symmetric)')}"
            + ")" * layer["weights"]["format"].endswith(",saturate-symmetric)"),
            f"sums of {layer['sum_bits']} bits"
            + (f", thresholds of a neuron: {thresholds:,}" if thresholds else ", argmax"),
        ]
        if fold := folded.get(layer["name"]):
            lines.append(
                f"fold {fold['outputs_in_parallel']} x {fold['inputs_in_parallel']}, {fold['cycles']:,} cycles a frame"
            )
        bits = link["neurons"] * link["bits"]
        found.append({
            "name": layer["name"],
            "link": f"{link['name']}: {link['neurons']:,} x {link['format']}, {bits:,} bits a frame",
            "lines": lines,
        })  # fmt: skip
    return found
