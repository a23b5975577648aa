"""Every flipped bit of every exported file is found, and located at its link and neuron, or else at its line."""

import re
from io import BytesIO
from zlib import crc32

import numpy as np
import pytest

from export import TARGETS, FixedNetwork, checksums, verified, verify, write
from export.checksums import CHECKSUMS, Damage, damage, read_checksums
from export.folder import MANIFEST, add_to_manifest, first_damage
from export.places import place
from lowbit_dtp.storage import StorageError, read_json
from tests.export.targets import ALL, EACH

MOST_BITS = 32768
"""Bits of a file that are all flipped; of longer ones a thousand, drawn at random."""


@pytest.fixture
def exported(make_network, tmp_path):
    """Writes a small network for a target; returns the folder and the content of its files."""

    def make(target):
        network = FixedNetwork.of(
            *make_network(links=("fixed(3,1)", "ternary"), activations=("tanh",), sizes=(3, 2, 2))
        )
        write(network, target, tmp_path / target, np.array([[0.5, -0.2, 0.1]]))
        files = {path.relative_to(tmp_path / target).as_posix(): path for path in (tmp_path / target).rglob("*.*")}
        return tmp_path / target, {name: path.read_bytes() for name, path in files.items() if path.is_file()}

    return make


def fields_of_digit(golden, column):
    """Numbers of a line that the hexadecimal digit in `column` is a part of."""
    digits = -(-golden["fields"] * golden["bits"] // 4)
    first = 4 * max(digits - 1 - column, 0)
    return {min(bit // golden["bits"], golden["fields"] - 1) for bit in range(first, first + 4)}


def expected(manifest, path, content):
    """Links, and neurons, that each byte of a file may be located at; None where it is of no neuron."""
    names = [layer["output_name"] for layer in manifest["layers"]]
    if golden := next((x for x in manifest["golden"] if x["path"] == path), None):
        link = re.search(r"([^/]+)\.\w+\.mem$", path)[1]
        return [(link, fields_of_digit(golden, c)) for line in content.splitlines() for c in range(len(line) + 1)]
    if "hardware" in manifest and re.search(r"\.(weights|thresholds)\.mem$", path):
        return folded(manifest, path, content)
    if path.endswith(".mem"):
        layer = next(x for x in manifest["layers"] if path.startswith(x["name"] + "."))
        return [(layer["output_name"], {n}) for n, line in enumerate(content.splitlines(True)) for _ in line]
    if path == "network.onnx":
        right = _tensors(content)
        return [_changed_tensor(manifest, right, content, offset) for offset in range(len(content))]
    if path.endswith(".nir"):
        return _numbers_of_graph(manifest, content)
    places = [None] * len(content)
    if path.endswith(".aedat"):
        link = next(x for x in manifest["links"] if f"{x['name']}.aedat" == path)
        for start in range(content.rindex(b"\r\n") + 2, len(content), 8):
            address = int(content[start : start + 4].hex(), 16)
            places[start : start + 8] = [(link["name"], {address // link["bits"]})] * 8
    if path == "events.csv":
        rows = [line.split(b",") for line in content.splitlines(True)]
        return [None if row[0] == b"link" else (row[0].decode(), {int(row[1])}) for row in rows for _ in b",".join(row)]
    if path == "network.c":
        for table in re.finditer(rb"(weights|thresholds)_(\d)\[\d+\] = \{\n(.*?\n)\};", content, re.DOTALL):
            for neuron, line in enumerate(re.finditer(rb".*\n", table[3])):
                for offset in range(table.start(3) + line.start(), table.start(3) + line.end()):
                    places[offset] = names[int(table[2])], {neuron}
        for row in re.finditer(rb"(?:biases|bases_(\d))\[\d+\] = \{\n(.*\n)\};", content):
            for offset in range(row.start(2), row.end(2)):
                places[offset] = names[int(row[1] or -1)], {content[row.start(2) : offset].count(b",")}
    return places


def _tensors(content):
    """Shape and numbers of each initializer of an ONNX file."""
    import onnx

    model = onnx.load_model_from_string(content)
    return {x.name: (tuple(x.dims), np.frombuffer(x.raw_data, np.uint32)) for x in model.graph.initializer}


def _changed_tensor(manifest, right, content, offset):
    """The neuron of the one number that changes with the byte at `offset`, as the package onnx reads the file."""
    try:
        wrong = _tensors(content[:offset] + bytes([content[offset] ^ 1]) + content[offset + 1 :])
    except Exception:  # of protobuf, of many kinds
        return None
    if wrong.keys() != right.keys() or any(wrong[x][0] != right[x][0] for x in right):
        return None
    if any(len(wrong[x][1]) != len(right[x][1]) for x in right):
        return None
    changed = [(x, int(i)) for x in right for i in np.flatnonzero(wrong[x][1] != right[x][1])]
    for layer in manifest["layers"] if changed else ():
        (name, number), tensor = changed[0], layer["output_name"].replace("-", "_")
        shape = right[name][0]
        if name == f"{layer['name']}_weights":
            return layer["output_name"], {int(np.unravel_index(number, shape)[1])}
        if name in (f"{tensor}_thresholds", f"{tensor}_offset", f"{layer['name']}_bias"):
            return layer["output_name"], {int(np.unravel_index(number, shape)[int(shape[0] == 1)])}
    return None


def _numbers_of_graph(manifest, content):
    """Where HDF5 has each number; that they are found there is a matter of reading a changed graph, below."""
    import h5py

    places = [None] * len(content)
    with h5py.File(BytesIO(content)) as file:
        for layer in manifest["layers"]:
            for kind in ("weights", "neurons"):
                node = file["node/nodes"].get(f"{kind}_{layer['name']}", {})
                for data in filter(lambda x: isinstance(x, h5py.Dataset) and x.ndim, node.values()):
                    values = data[:]
                    start = content.index(values.tobytes(), data.id.get_offset())
                    for row in range(len(values)):
                        size = values.nbytes // len(values)
                        neuron = row // layer.get("thresholds_per_neuron", 1)
                        places[start + row * size : start + (row + 1) * size] = [
                            (layer["output_name"], {neuron})
                        ] * size
    return places


def folded(manifest, path, content):
    """`expected` of a memory of folded layers without folding by inputs: neurons one after the other in each line."""
    layer = next(x for x in manifest["layers"] if path.startswith(x["name"] + "."))
    hardware = next(x for x in manifest["hardware"]["layers"] if x["name"] == layer["name"])
    lines, together = content.splitlines(True), hardware["outputs_in_parallel"]
    groups = -(-layer["neurons"] // together)
    return [
        (
            layer["output_name"],
            {min(n * groups // len(lines) * together + k, layer["neurons"] - 1) for k in range(together)},
        )
        for n, line in enumerate(lines)
        for _ in line
    ]


@pytest.mark.parametrize("target", EACH)
def test_every_flipped_bit_is_found_and_located(exported, target):
    folder, contents = exported(target)
    assert first_damage(folder) is None
    manifest, sums = read_json(folder / MANIFEST), read_checksums(contents[CHECKSUMS])
    assert set(sums) == set(contents) - {CHECKSUMS}
    located = 0
    for path, right in contents.items():
        places = [] if path in (CHECKSUMS, MANIFEST) else expected(manifest, path, right)
        bits = np.arange(8 * len(right))
        if len(bits) > MOST_BITS:
            bits = np.random.default_rng(0).choice(bits, MOST_BITS // 32, replace=False)
        for offset, bit in ((at // 8, at % 8) for at in bits.tolist()):
            wrong = right[:offset] + bytes([right[offset] ^ 1 << bit]) + right[offset + 1 :]
            if path == CHECKSUMS:
                found = read_checksums(wrong)
                assert isinstance(found, Damage)
                assert found.line == right.count(b"\n", 0, offset) + 1 or right[offset : offset + 1] == b"\n"
                continue
            found = damage(path, wrong, sums[path])
            assert found is not None and (found.offset, found.content == right) == (offset, True)
            if places and bit == offset % 8:  # the place of a byte, with a bit in turn
                at = place(manifest, found, TARGETS[target].place)
                assert isinstance(at, tuple) == (places[offset] is not None), (path, offset, at)
                if places[offset]:
                    assert at[0] == places[offset][0] and at[1] in places[offset][1], (path, offset)
                    located += 1
    assert located > 300


def test_each_bit_of_a_block_changes_its_checksum_in_another_way():
    """So every bit of every file is found, whatever the file holds: a CRC is linear."""
    table = checksums._flips()
    assert len(table) == 8 * checksums.BLOCK and 0 not in table
    block = bytes(range(256)) * 4
    for changed, (distance, bit) in list(table.items())[::97]:
        offset = len(block) - 1 - distance
        wrong = block[:offset] + bytes([block[offset] ^ 1 << bit]) + block[offset + 1 :]
        assert crc32(wrong) ^ crc32(block) == changed


def test_a_flipped_code_is_located_at_its_neuron_though_four_share_a_digit(exported):
    folder, contents = exported("mem")
    manifest, path = read_json(folder / MANIFEST), "golden/network/input-h1.codes.mem"
    right, sums = contents[path], read_checksums(contents[CHECKSUMS])[path]
    value = int(right, 16)
    digits = len(right.split()[0])
    for bit in range(9):
        wrong = f"{value ^ 1 << bit:0{digits}x}\n".encode()
        if sum((a ^ b).bit_count() for a, b in zip(right, wrong, strict=True)) == 1:
            at = place(manifest, damage(path, wrong, sums), TARGETS["mem"].place)
            assert at == ("input-h1", bit // 3)


@pytest.mark.parametrize("target", ALL)
def test_what_is_verified_is_what_was_written(exported, target):
    """A sample of bits of every file, changed on disk."""
    folder, contents = exported(target)
    random = np.random.default_rng(5)
    for path, right in contents.items():
        offset, bit = int(random.integers(len(right))), int(random.integers(8))
        (folder / path).write_bytes(right[:offset] + bytes([right[offset] ^ 1 << bit]) + right[offset + 1 :])
        result = verified(folder)
        assert re.fullmatch(rf"failed at (link \S+, neuron \d+|{re.escape(path)}, [\w /]+)", result.status), result
        assert re.fullmatch(rf"line \d+ of {re.escape(str(folder / path))}: .+", result.detail)
        assert (result.passed, result.vectors) == (False, 0)
        (folder / path).write_bytes(right)
    result = verified(folder)
    assert result == TARGETS[target].verify(folder)
    assert result.passed or result.status == verify.NO_COMPILER


def test_parts_of_an_onnx_file_without_a_neuron_are_named(exported):
    folder, contents = exported("qonnx")
    right = contents["network.onnx"]
    for text, part in {
        b"narrow": "node input_h1_Quant", b"output_sums_MatMul": "node output_sums_MatMul",
        b"h1_weights_quantized_scale": "node h1_weights_quantized_Quant", b"lowbit-dtp": "model",
    }.items():  # fmt: skip
        offset = right.index(text)
        (folder / "network.onnx").write_bytes(right[:offset] + bytes([right[offset] ^ 2]) + right[offset + 1 :])
        assert verified(folder).status == f"failed at network.onnx, {part}"


def test_what_changes_more_than_a_bit_is_found_by_what_it_computes(exported):
    folder, contents = exported("nir")
    right = contents["network.nir"]
    offset = next(i for i, x in enumerate(_numbers_of_graph(read_json(folder / MANIFEST), right)) if x) + 2
    (folder / "network.nir").write_bytes(right[:offset] + bytes([right[offset] ^ 0xC0, 66]) + right[offset + 2 :])
    assert verified(folder).status.startswith("failed at link h1-output, neuron ")


def test_numbers_of_a_neuron_in_the_manifest_are_located(exported):
    folder, contents = exported("mem")
    text = contents[MANIFEST]
    offset = text.index(b"highest_sum")
    offset = text.index(b"[", offset)
    offset = next(i for i in range(text.index(b",", offset), len(text)) if text[i : i + 1].isdigit())
    (folder / MANIFEST).write_bytes(text[:offset] + bytes([text[offset] ^ 1]) + text[offset + 1 :])
    result = verified(folder)
    assert result.status == "failed at link h1-output, neuron 1"
    line = text.count(b"\n", 0, offset) + 1
    assert result.detail == f"line {line} of {folder / MANIFEST}: bit 0 of byte {offset} has flipped"


def test_more_than_a_bit_and_other_sizes_are_told(exported):
    folder, contents = exported("mem")
    path = folder / "h1.weights.mem"
    right = contents["h1.weights.mem"]
    path.write_bytes(right.swapcase().translate(bytes.maketrans(b"0123", b"7654")))
    assert verified(folder).detail == f"line 1 of {path}: bytes 0 to {len(right) - 1} have changed"
    path.write_bytes(right + b"0")
    result = verified(folder)
    assert (result.status, result.detail) == (
        "failed at link h1-output, neuron 1",
        f"line 2 of {path}: {len(right) + 1} bytes, not {len(right)}",
    )
    path.unlink()
    with pytest.raises(StorageError) as error:
        verified(folder)
    assert str(error.value) == f"{path}: no such file, although an export of this version has it"


def test_figures_that_are_added_to_the_manifest_are_sealed(exported):
    folder, _ = exported("mem")
    add_to_manifest(folder, build={"luts": 12})
    assert verified(folder).passed
    assert read_json(folder / MANIFEST)["build"] == {"luts": 12}


def test_every_bit_of_a_long_block_is_told_apart():
    content = bytes(range(256)) * 8
    sums = read_checksums(checksums.checksums({"x": content}))["x"]
    for offset in (0, 1023, 1024, 2047):
        for bit in range(8):
            wrong = content[:offset] + bytes([content[offset] ^ 1 << bit]) + content[offset + 1 :]
            assert damage("x", wrong, sums).detail == f"bit {bit} of byte {offset} has flipped"
