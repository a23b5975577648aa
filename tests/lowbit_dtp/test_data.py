"""Data sets: files that are read, errors, downloads, and the order of minibatches."""

import gzip
import hashlib
import os
import subprocess
import sys
import tarfile
import threading
import zlib
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbit_dtp import data
from lowbit_dtp.data import (
    DataError,
    DataSet,
    Digest,
    IdxFile,
    Samples,
    Source,
    cifar10,
    fetch,
    find,
    folders,
    load,
    order,
)
from lowbit_dtp.formats import ufixed

PUBLISHED = dict(data.SOURCES)
SHAPES = {
    "train-images-idx3-ubyte": (6, 3, 4),
    "train-labels-idx1-ubyte": (6,),
    "t10k-images-idx3-ubyte": (2, 3, 4),
    "t10k-labels-idx1-ubyte": (2,),
}
IMAGES, LABELS, TEST_IMAGES, TEST_LABELS = SHAPES
DATA_FOLDER = Path(os.environ.get(data.FOLDER_VARIABLE) or "no-folder-named")


def idx(shape, seed=0):
    """An IDX file of random bytes; of labels, if it has one dimension."""
    header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    highest = data.CLASSES if len(shape) == 1 else 256
    return header + np.random.default_rng(seed).integers(0, highest, shape, np.uint8).tobytes()


def zipped(content):
    return gzip.compress(content, mtime=0)


def md5(content):
    return hashlib.md5(content).hexdigest()


MNIST = {name: idx(shape, seed) for seed, (name, shape) in enumerate(SHAPES.items())}
FASHION = {name: idx(shape, 10 + seed) for seed, (name, shape) in enumerate(SHAPES.items())}


def published(contents, of, *mirrors):
    """A small data set, 4 + 2 + 2 images of 3 x 4 inputs."""
    of_what = {"content": lambda c: c, "gz": zipped}[of]
    files = tuple(IdxFile(name, SHAPES[name], Digest(md5(of_what(c)), of)) for name, c in contents.items())
    return Source("its makers", ufixed(8, 0), (3, 4), (4, 2, 2), files, mirrors)


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Small data sets under the known names, without a mirror, and no folder but those that a test names."""
    monkeypatch.setitem(data.SOURCES, "mnist", published(MNIST, "content"))
    monkeypatch.setitem(data.SOURCES, "fashion-mnist", published(FASHION, "gz"))
    monkeypatch.delenv(data.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "cache" / name)


def put(folder, contents, end=""):
    """Write `contents` into `folder`, gzipped if they are to end in `.gz`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / f"{name}{end}").write_bytes(zipped(content) if end else content)


def message(action):
    """The whole text of the DataError that `action` raises."""
    with pytest.raises(DataError) as caught:
        action()
    return str(caught.value)


class TestRead:
    @pytest.mark.parametrize("inside", ["mnist", "."])
    @pytest.mark.parametrize("end", ["", ".gz"])
    def test_splits_the_training_file_and_scales_bytes_by_256(self, tmp_path, inside, end):
        put(tmp_path / inside, MNIST, end)
        mnist = load("mnist", tmp_path)
        assert (mnist.name, mnist.classes, mnist.image_shape, mnist.source) == ("mnist", 10, (3, 4), "its makers")
        assert [len(part) for part in (mnist.train, mnist.valid, mnist.test)] == [4, 2, 2]
        inputs = np.concatenate([part.inputs for part in (mnist.train, mnist.valid, mnist.test)])
        labels = np.concatenate([part.labels for part in (mnist.train, mnist.valid, mnist.test)])
        assert (inputs.dtype, labels.dtype) == (np.float32, np.int64)
        assert (inputs * 256).astype(int).ravel().tolist() == [*MNIST[IMAGES][16:], *MNIST[TEST_IMAGES][16:]]
        assert labels.tolist() == [*MNIST[LABELS][8:], *MNIST[TEST_LABELS][8:]]

    def test_every_byte_is_carried_exactly_by_the_pixel_format(self, tmp_path):
        put(tmp_path, MNIST)
        mnist = load("mnist", tmp_path)
        codes = mnist.input_format.encode(mnist.train.inputs)
        assert codes.dtype == np.uint8
        assert codes.tobytes() == MNIST[IMAGES][16 : 16 + 4 * 12]
        assert np.array_equal(mnist.input_format.decode(codes), mnist.train.inputs)

    def test_a_file_gzipped_anew_is_read_though_only_the_digest_of_the_published_gz_is_known(self, tmp_path):
        put(tmp_path / "fashion-mnist", FASHION)
        (tmp_path / "fashion-mnist" / IMAGES).write_bytes(gzip.compress(FASHION[IMAGES], 1, mtime=7))
        assert load("fashion-mnist", tmp_path).test.labels.tolist() == [*FASHION[TEST_LABELS][8:]]

    def test_what_the_content_is_counts_not_the_ending(self, tmp_path):
        put(tmp_path, {f"{name}.gz": content for name, content in MNIST.items()})
        assert len(load("mnist", tmp_path).train) == 4

    def test_a_name_that_is_none(self):
        with pytest.raises(
            ValueError, match=r"^no data set 'minst'; there are: cifar10, digits, fashion-mnist, mnist$"
        ):
            load("minst")


class TestDigits:
    def test_split_in_file_order(self):
        from sklearn.datasets import load_digits

        digits, bunch = load("digits"), load_digits()
        assert [len(part) for part in (digits.train, digits.valid, digits.test)] == [1097, 300, 400]
        assert (digits.classes, digits.image_shape) == (10, (8, 8))
        for part, begin in ((digits.train, 0), (digits.valid, 1097), (digits.test, 1397)):
            assert (part.inputs.dtype, part.labels.dtype) == (np.float32, np.int64)
            assert np.array_equal(part.inputs * 16, bunch.data[begin : begin + len(part)])
            assert np.array_equal(part.labels, bunch.target[begin : begin + len(part)])
            assert set(part.labels) == set(range(10))

    def test_pixels_cover_0_to_1_and_are_carried_exactly(self):
        digits = load("digits")
        inputs = digits.train.inputs
        assert (inputs.min(), inputs.max()) == (0, 1)
        assert (digits.input_format.name, digits.input_format.bits) == ("ufixed(5,1)", 5)
        assert np.array_equal(digits.input_format.quantize(inputs), inputs)

    def test_needs_no_file(self):
        assert find("digits") == fetch("digits") == []


class TestFind:
    def test_folders_in_their_order(self, tmp_path, monkeypatch):
        cache = tmp_path / "cache" / "lowbit-dtp"
        assert folders() == [cache]
        monkeypatch.setenv(data.FOLDER_VARIABLE, str(tmp_path / "named"))
        assert folders() == [tmp_path / "named", cache]
        assert folders("given") == [Path("given"), tmp_path / "named", cache]
        monkeypatch.setenv(data.FOLDER_VARIABLE, "")
        assert folders() == [cache]

    def test_the_first_place_that_has_a_file_is_taken(self, tmp_path, monkeypatch):
        cache = tmp_path / "cache" / "lowbit-dtp"
        monkeypatch.setenv(data.FOLDER_VARIABLE, str(tmp_path / "named"))
        places = [
            tmp_path / "given" / "mnist" / IMAGES,
            tmp_path / "given" / "mnist" / f"{IMAGES}.gz",
            tmp_path / "given" / IMAGES,
            tmp_path / "given" / f"{IMAGES}.gz",
            tmp_path / "named" / "mnist" / IMAGES,
            tmp_path / "named" / f"{IMAGES}.gz",
            cache / "mnist" / f"{IMAGES}.gz",
            cache / IMAGES,
        ]
        for place in reversed(places):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(b"")
            found = find("mnist", tmp_path / "given")
            assert [(file.name, path) for file, path in found] == [
                (IMAGES, place), (LABELS, None), (TEST_IMAGES, None), (TEST_LABELS, None)
            ]  # fmt: skip

    def test_a_folder_that_cannot_be_looked_into(self):
        folder = Path("x" * 300)
        assert message(lambda: find("mnist", folder)) == (
            f"{folder}/mnist/{IMAGES}: cannot be looked for (File name too long)"
        )


def header(*shape):
    return idx(shape)[: 4 + 4 * len(shape)]


FAULTS = {
    "labels in place of images": (IMAGES, MNIST[LABELS], "holds IDX labels, not IDX images (00000803)"),
    "images in place of labels": (LABELS, MNIST[IMAGES], "holds IDX images, not IDX labels (00000801)"),
    "wrong magic number": (
        IMAGES,
        b"<!DOCTYPE html>",
        "holds something that begins with 3c21444f, not IDX images (00000803)",
    ),
    "empty": (LABELS, b"", "holds something that begins with nothing, not IDX labels (00000801)"),
    "test images to train on": (
        IMAGES,
        MNIST[TEST_IMAGES],
        "holds 2 images of 3 x 4 inputs, not 6 images of 3 x 4 inputs",
    ),
    "images of another size": (
        IMAGES,
        idx((6, 4, 4)),
        "holds 6 images of 4 x 4 inputs, not 6 images of 3 x 4 inputs",
    ),
    "labels to train on in the test": (TEST_LABELS, MNIST[LABELS], "holds 6 labels, not 2 labels"),
    "ends in its header": (IMAGES, MNIST[IMAGES][:9], "is truncated: 9 bytes unpacked, not 88"),
    "ends in its inputs": (IMAGES, MNIST[IMAGES][:-1], "is truncated: 87 bytes unpacked, not 88"),
    "goes on": (LABELS, MNIST[LABELS] + b"\0", "is too long: more than 14 bytes unpacked"),
    "label out of range": (
        LABELS,
        header(6) + bytes([0, 1, 2, 10, 3, 4]),
        "label 10 of sample 3 is not one of 0 to 9",
    ),
    "other inputs": (
        IMAGES,
        header(6, 3, 4) + bytes(72),
        "is corrupt or not the published file: its content has md5 "
        f"{md5(header(6, 3, 4) + bytes(72))}, not {md5(MNIST[IMAGES])}",
    ),
}


class TestRefused:
    @pytest.mark.parametrize("end", ["", ".gz"])
    @pytest.mark.parametrize(("name", "content", "fault"), FAULTS.values(), ids=FAULTS)
    def test_wrong_content(self, tmp_path, name, content, fault, end):
        put(tmp_path / "mnist", MNIST | {name: content}, end)
        assert message(lambda: load("mnist", tmp_path)) == f"{tmp_path}/mnist/{name}{end}: {fault}"

    @pytest.mark.parametrize(
        ("damage", "fault"),
        [
            (lambda z: z[:-9], "Compressed file ended before the end-of-stream marker was reached"),
            (lambda z: z[:-8] + bytes(8), f"CRC check failed 0x0 != {hex(zlib.crc32(MNIST[IMAGES]))}"),
            (lambda z: z[:10] + b"\xff" + z[11:], "Error -3 while decompressing data: invalid block type"),
        ],
        ids=["cut off", "wrong checksum", "broken stream"],
    )
    def test_corrupt_gzip(self, tmp_path, damage, fault):
        put(tmp_path, MNIST, ".gz")
        path = tmp_path / f"{IMAGES}.gz"
        path.write_bytes(damage(path.read_bytes()))
        assert message(lambda: load("mnist", tmp_path)) == f"{path}: is a corrupt gzip file ({fault})"

    def test_not_readable(self, tmp_path):
        put(tmp_path, MNIST)
        (tmp_path / "mnist" / IMAGES).mkdir(parents=True)
        assert message(lambda: load("mnist", tmp_path)) == f"{tmp_path}/mnist/{IMAGES}: cannot be read (Is a directory)"

    def test_files_of_the_other_data_set_with_the_same_names_and_shapes(self, tmp_path):
        put(tmp_path, MNIST)
        assert message(lambda: load("fashion-mnist", tmp_path)) == (
            f"{tmp_path}/{IMAGES}: is {IMAGES} of mnist; keep each data set in a folder of its name"
        )
        put(tmp_path, FASHION)
        assert message(lambda: load("mnist", tmp_path)) == (
            f"{tmp_path}/{IMAGES}: is corrupt or not the published file: its content has md5 {md5(FASHION[IMAGES])}, "
            f"not {md5(MNIST[IMAGES])}"
        )


class Mirror(BaseHTTPRequestHandler):
    """Serves `server.held`, a dict of path to bytes; what is under /cut/ ends one byte before it says."""

    def do_GET(self):
        self.server.asked.append(self.path)
        content = self.server.held.get(self.path)
        self.send_response(200 if content else 404)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write((content or b"")[: -1 if self.path.startswith("/cut/") else None])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """An HTTP server on this machine; `held` is what it has, `asked` what it was asked for, `address` where it is."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        server.held, server.asked = {}, []
        server.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def publish(monkeypatch, server, name, contents, of, *mirrors):
    """Hold `contents`, gzipped, under the last of `mirrors`, and let data set `name` come from all of them."""
    server.held |= {f"/{mirrors[-1]}/{file}.gz": zipped(content) for file, content in contents.items()}
    addresses = [f"{server.address}/{mirror}/" for mirror in mirrors]
    monkeypatch.setitem(data.SOURCES, name, published({"mnist": MNIST, "fashion-mnist": FASHION}[name], of, *addresses))


class TestDownload:
    @pytest.mark.parametrize(
        ("name", "contents", "of"), [("mnist", MNIST, "content"), ("fashion-mnist", FASHION, "gz")]
    )
    def test_what_is_absent_comes_from_the_first_mirror_that_has_it_and_stays(
        self, tmp_path, monkeypatch, server, name, contents, of
    ):
        publish(monkeypatch, server, name, contents, of, "gone", "here")
        put(tmp_path / name, {LABELS: contents[LABELS]})
        assert load(name, tmp_path).train.labels.tolist() == [*contents[LABELS][8:12]]
        absent = [file for file in SHAPES if file != LABELS]
        assert server.asked == [f"/{mirror}/{file}.gz" for file in absent for mirror in ("gone", "here")]
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == sorted(
            [LABELS, *(f"{file}.gz" for file in absent)]
        )
        server.asked.clear()
        assert fetch(name, tmp_path) == [path for _, path in find(name, tmp_path)]
        assert len(load(name, tmp_path).test) == 2
        assert server.asked == []

    def test_goes_to_the_first_of_the_folders(self, tmp_path, monkeypatch, server):
        publish(monkeypatch, server, "mnist", MNIST, "content", "here")
        cache = tmp_path / "cache" / "lowbit-dtp" / "mnist"
        assert fetch("mnist") == [cache / f"{file}.gz" for file in SHAPES]
        monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "other")
        monkeypatch.setenv(data.FOLDER_VARIABLE, str(tmp_path / "named"))
        assert fetch("mnist") == [tmp_path / "named" / "mnist" / f"{file}.gz" for file in SHAPES]

    def test_all_mirrors_fail(self, tmp_path, monkeypatch, server):
        """One is down, one has nothing, one is cut off, one has another file: all is told, and nothing is left."""
        publish(monkeypatch, server, "mnist", MNIST, "content", "gone", "cut")
        publish(monkeypatch, server, "mnist", {IMAGES: MNIST[LABELS]}, "content", "gone", "cut", "other")
        mirrors = data.SOURCES["mnist"].mirrors
        down = "http://127.0.0.1:1/"  # port 1 is reserved, and nothing listens there
        monkeypatch.setitem(data.SOURCES, "mnist", published(MNIST, "content", down, *mirrors))
        monkeypatch.setenv(data.FOLDER_VARIABLE, str(tmp_path / "named"))
        assert message(lambda: load("mnist", tmp_path / "given")) == (
            f"mnist: no {IMAGES} or {IMAGES}.gz in {tmp_path}/given, {tmp_path}/named, {tmp_path}/cache/lowbit-dtp, "
            "nor to be downloaded:\n"
            f"  {down}{IMAGES}.gz: ConnectionError\n"
            f"  {server.address}/gone/{IMAGES}.gz: HTTP status 404\n"
            f"  {server.address}/cut/{IMAGES}.gz: ChunkedEncodingError\n"
            f"  {server.address}/other/{IMAGES}.gz: holds IDX labels, not IDX images (00000803)\n"
            f"Put the 4 files of mnist, gzipped or not, in {tmp_path}/given/mnist; or name the folder that has "
            "them in --data-dir or LOWBIT_DTP_DATA."
        )
        assert list(tmp_path.rglob("*")) == []

    def test_another_gz_than_the_published(self, tmp_path, monkeypatch, server):
        other = idx(SHAPES[IMAGES], seed=20)
        publish(monkeypatch, server, "fashion-mnist", FASHION | {IMAGES: other}, "gz", "here")
        text = message(lambda: fetch("fashion-mnist", tmp_path))
        assert text.splitlines()[1] == (
            f"  {server.address}/here/{IMAGES}.gz: is corrupt or not the published file: it has md5 "
            f"{md5(zipped(other))}, not {md5(zipped(FASHION[IMAGES]))}"
        )
        assert list(tmp_path.rglob("*")) == []

    def test_a_folder_that_cannot_be_written(self, tmp_path, monkeypatch, server):
        publish(monkeypatch, server, "mnist", MNIST, "content", "here")
        (tmp_path / "file").write_text("not a folder")
        assert message(lambda: fetch("mnist", tmp_path / "file")) == (
            f"{tmp_path}/file/mnist/{IMAGES}.gz: cannot be written (Not a directory)"
        )


class TestOrder:
    @given(st.integers(0, 500), st.integers(0, 2**63), st.integers(0, 10_000))
    def test_every_sample_once(self, samples, seed, sweep):
        assert sorted(order(samples, seed, sweep).tolist()) == list(range(samples))

    def test_depends_on_seed_and_sweep_alone(self):
        np.random.seed(0)
        once = order(1000, 3, 5).tolist()
        np.random.seed(1)
        assert order(1000, 3, 5).tolist() == once
        others = [once, *(order(1000, *x).tolist() for x in ((3, 6), (4, 5), (5, 3))), list(range(1000))]
        assert len(set(map(tuple, others))) == len(others)


def test_published_data_sets_are_whole():
    for name, source in PUBLISHED.items():
        if source.mirrors:
            assert {file.name: file.shape for file in source.files} == {
                IMAGES: (60_000, 28, 28), LABELS: (60_000,), TEST_IMAGES: (10_000, 28, 28), TEST_LABELS: (10_000,)
            }, name  # fmt: skip
            assert sum(source.sizes) == 70_000
            assert all(mirror.endswith("/") for mirror in source.mirrors)
    assert {file.digest.of for file in PUBLISHED["mnist"].files} == {"content"}
    assert {file.digest.of for file in PUBLISHED["fashion-mnist"].files} == {"gz"}


@pytest.mark.skipif(
    not any(path.exists() for path in DATA_FOLDER.glob(f"mnist/{IMAGES}*")),
    reason=f"needs mnist/{IMAGES}[.gz] in the folder that {data.FOLDER_VARIABLE} names",
)
def test_mnist_itself(monkeypatch):
    monkeypatch.setitem(data.SOURCES, "mnist", PUBLISHED["mnist"])
    mnist = load("mnist", DATA_FOLDER)
    assert [part.inputs.shape for part in (mnist.train, mnist.valid, mnist.test)] == [
        (50_000, 784), (10_000, 784), (10_000, 784)
    ]  # fmt: skip
    assert mnist.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert (mnist.train.inputs.min(), mnist.train.inputs.max()) == (0, 255 / 256)
    assert np.shares_memory(mnist.train.stored.base, mnist.valid.stored.base)


def test_importing_it_imports_nothing_slow():
    slow = "{'sklearn', 'pooch', 'platformdirs', 'requests', 'torch', 'numba'}"
    program = f"import sys, lowbit_dtp.data; print(sorted({slow} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


class TestSamples:
    def test_lists_and_images_become_arrays(self):
        few = Samples([[0, 1], [1, 0], [1, 1]], [0, 1, 0])
        assert (few.stored.dtype, few.labels.dtype, few.label_kind) == (np.float32, np.int64, "classes")
        assert few.stored.tolist() == [[0, 1], [1, 0], [1, 1]] and few.labels.tolist() == [0, 1, 0]
        images = np.arange(2 * 3 * 4, dtype=np.float64).reshape(2, 3, 4)
        assert Samples(images, np.array([1.0, 0.0])).stored.tolist() == [list(range(12)), list(range(12, 24))]
        colour = np.arange(2 * 3 * 2 * 2, dtype=np.uint8).reshape(2, 3, 2, 2)
        codes = Samples(colour, [0, 1], ufixed(8, 0))
        assert codes.stored.dtype == np.uint8 and codes.inputs[1].tolist() == [k / 256 for k in range(12, 24)]

    def test_arrays_of_the_right_type_are_not_copied(self):
        inputs, labels = np.zeros((3, 2), np.float32), np.zeros(3, np.int64)
        assert Samples(inputs, labels).stored is inputs and Samples(inputs, labels).labels is labels

    def test_labels_may_be_values_of_outputs(self):
        few = Samples(np.eye(3), np.array([[0.5, -1.0], [0.0, 2.0], [1.0, 1.0]]))
        assert (few.labels.dtype, few.labels.shape, few.label_kind) == (np.float32, (3, 2), "values")
        inputs, labels = few.part(np.array([2, 0]))
        assert inputs.tolist() == [[0, 0, 1], [1, 0, 0]] and labels.tolist() == [[1, 1], [0.5, -1]]
        assert few.on("numpy").labels.tolist() == few.labels.tolist()
        assert DataSet.of(few, few, few).classes == 2 and DataSet.of(few, few, few).label_kind == "values"

    def test_labels_of_both_kinds_on_torch(self):
        torch = pytest.importorskip("torch")
        for labels in ([1, 0], [[0.5], [0.25]]):
            few = Samples(np.eye(2), labels).on("cpu")
            assert torch.is_tensor(few.labels) and few.labels.tolist() == labels
            assert few.label_kind == ("classes" if labels == [1, 0] else "values")

    @pytest.mark.parametrize(
        ("inputs", "labels", "fault"),
        [
            (np.zeros((150, 2)), [0] * 100, "labels: 100 labels for 150 inputs; one label for each input is needed"),
            (np.zeros((100, 2)), [0] * 150, "labels: 150 labels for 100 inputs; one label for each input is needed"),
            (np.zeros((0, 2)), [], "inputs: there are no samples; one or more are needed"),
            (np.zeros(5), [0] * 5, "inputs: an array of shape (5,); needed is [samples, neurons]"),
            ([[1, 2], [3]], [0, 1], "inputs: a list whose rows differ in length; needed: [samples, neurons]"),
            ([[1, 2], [3, np.nan]], [0, 1], "inputs: nan in sample 1; finite numbers are needed"),
            ([[1, -np.inf], [3, 4]], [0, 1], "inputs: -inf in sample 0; finite numbers are needed"),
            ([["a"]], [0], "inputs: an array of <U1; numbers are needed"),
            (np.zeros((1, 2), np.uint8), [0], "inputs: bytes, of which it is not said what they stand for; give "),
            ([[1.0]] * 3, [0, 1, -2], "labels: -2 for sample 2; needed are whole numbers from 0 [samples]"),
            ([[1.0]] * 3, [0, 1.5, 1], "labels: 1.5 for sample 1; needed are whole numbers from 0 [samples]"),
            ([[1.0]] * 3, [0, np.nan, 1], "labels: nan for sample 1; needed are"),
            ([[1.0]] * 2, [[0], [1]], "labels: an array of int64, of shape (2, 1); needed are whole numbers"),
            ([[1.0]] * 2, ["cat", "dog"], "labels: an array of <U3, of shape (2,); needed are whole numbers"),
            ([[1.0]] * 2, [[0.5], [np.inf]], "labels: inf in sample 1; finite numbers are needed"),
        ],
    )
    def test_refused(self, inputs, labels, fault):
        assert message(lambda: Samples(inputs, labels)).startswith(fault)

    def test_split(self):
        few = Samples(np.arange(12.0).reshape(6, 2), [0, 1, 2, 3, 4, 5])
        assert [part.labels.tolist() for part in few.split((3, 1, 2))] == [[0, 1, 2], [3], [4, 5]]
        assert message(lambda: few.split((3, 1, 1))) == (
            "split: 3 + 1 + 1 samples; parts of 1 or more that add up to 6 are needed"
        )
        assert message(lambda: few.split((6, 0, 0))).startswith("split: 6 + 0 + 0 samples; ")

    def test_parts_of_a_data_set_must_go_together(self):
        few, wide = Samples(np.eye(3), [0, 1, 2]), Samples(np.ones((2, 4)), [0, 1])
        values = Samples(np.eye(3), np.ones((3, 2)))
        whole = DataSet.of(few, few, Samples(np.eye(3), [4, 0, 0]), "mine")
        assert (whole.name, whole.inputs, whole.classes, whole.image_shape) == ("mine", 3, 5, (3,))
        assert message(lambda: DataSet.of(few, wide, few)).startswith("valid: 4 inputs a sample, and train has 3; ")
        assert message(lambda: DataSet.of(few, few, values)).startswith("test: labels are values, and those of train ")
        assert (
            message(lambda: DataSet.of(few, few, few, classes=2)) == "train: label 2 of sample 2 is not one of 0 to 1"
        )
        assert message(lambda: DataSet.of(values, values, Samples(np.eye(3), np.ones((3, 1))))).startswith(
            "test: labels of 1 outputs; those of this data set have 2"
        )

    def test_an_outline_has_the_sizes(self):
        values = Samples(np.eye(3), np.ones((3, 2)))
        assert DataSet.of(values, values, Samples(np.eye(3)[:2], np.ones((2, 2)))).outline == data.Outline(
            "own data", inputs=3, classes=2, train=3, test=2, label_kind="values"
        )


class TestOutline:
    def test_is_that_of_the_data(self, tmp_path):
        put(tmp_path, MNIST)
        for name in ("digits", "mnist"):
            assert data.outline(name) == data.outline(name, tmp_path) == data.load(name, tmp_path).outline
        np.savez(tmp_path / "own.npz", inputs=np.eye(6), labels=np.arange(6) % 3, split=[3, 1, 2])
        assert data.outline(str(tmp_path / "own.npz")) == data.Outline("own", 6, 3, 3, 2)

    def test_is_that_of_the_published_files(self):
        for source in PUBLISHED.values():
            images = [file.shape for file in source.files if isinstance(file, IdxFile) and len(file.shape) > 1]
            batches = [(file.samples, *cifar10.IMAGE_SHAPE) for file in source.files if isinstance(file, cifar10.Batch)]
            for count, *shape in [*images, *batches]:
                assert tuple(shape) == source.image_shape
                assert count <= sum(source.sizes)

    def test_needs_a_known_name(self):
        with pytest.raises(ValueError, match=r"^no data set 'mnits'; there are: .*cifar10, digits, fashion-mnist"):
            data.outline("mnits")


BATCHES = [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]


@pytest.fixture
def cifar(monkeypatch):
    """A small `cifar10`: batches of 20 images, of which the last 10 to train on validate. Their content, by name."""
    files = tuple(cifar10.Batch(name, 20) for name in BATCHES)
    small = replace(PUBLISHED["cifar10"], sizes=(90, 10, 20), files=files)
    monkeypatch.setitem(data.SOURCES, "cifar10", small)
    draw = np.random.default_rng(0)
    records = draw.integers(0, 256, (6, 20, 3073), np.uint8)
    records[..., 0] %= 10
    return dict(zip(BATCHES, records, strict=True))


class TestCifar10:
    @pytest.mark.parametrize("inside", ["cifar10", ".", "cifar-10-batches-bin", "cifar10/cifar-10-batches-bin"])
    @pytest.mark.parametrize("end", ["", ".gz"])
    def test_batches_in_their_order(self, tmp_path, cifar, inside, end):
        put(tmp_path / inside, {name: records.tobytes() for name, records in cifar.items()}, end)
        found = load("cifar10", tmp_path)
        records = np.concatenate([*cifar.values()])
        assert (found.classes, found.image_shape, found.source) == (10, (3, 32, 32), PUBLISHED["cifar10"].citation)
        for part, begin, end_ in ((found.train, 0, 90), (found.valid, 90, 100), (found.test, 100, 120)):
            assert part.labels.tolist() == records[begin:end_, 0].tolist()
            assert np.array_equal(part.inputs * 256, records[begin:end_, 1:])

    def test_faults(self, tmp_path, cifar):
        contents = {name: records.tobytes() for name, records in cifar.items()}
        assert message(lambda: load("cifar10", tmp_path)).startswith(
            f"cifar10: no data_batch_1.bin or data_batch_1.bin.gz in {tmp_path}, {tmp_path}/cache/lowbit-dtp.\n"
            f"Put the 6 files of cifar10, gzipped or not, in {tmp_path}/cifar10; "
        )
        path = tmp_path / "cifar10" / "data_batch_2.bin"
        for content, fault in (
            (contents[path.name][:-1], "is truncated: 61459 bytes unpacked, not 61460"),
            (contents[path.name] + b"\0", "is too long: more than 61460 bytes unpacked"),
            (b"\x0a" + contents[path.name][1:], "label 10 of sample 0 is not one of 0 to 9"),
        ):
            put(path.parent, contents | {path.name: content})
            assert message(lambda: load("cifar10", tmp_path)) == f"{path}: {fault}"

    def test_published_sizes(self):
        source = PUBLISHED["cifar10"]
        assert [(file.name, file.samples) for file in source.files] == [(name, 10_000) for name in BATCHES]
        assert source.sizes == (49_000, 1_000, 10_000)

    @pytest.mark.parametrize("packed", [False, True])
    def test_made_of_jpeg_copies_which_every_source_says(self, tmp_path, cifar, packed):
        copies = jpeg_copies(tmp_path / "copies")
        if packed:
            with tarfile.open(tmp_path / "copies.tar.xz", "w:xz") as archive:
                archive.add(copies, ".")
            copies = tmp_path / "copies.tar.xz"
        written = data.convert_cifar10(copies, tmp_path)
        assert written == [tmp_path / "cifar10" / name for name in (*BATCHES, "cifar10.json")]
        found = load("cifar10", tmp_path)
        assert found.source == (f"{PUBLISHED['cifar10'].citation}; JPEG copies of the images, not the published files")
        labels = np.concatenate([part.labels for part in (found.train, found.valid, found.test)])
        assert labels.tolist() == [*range(10)] * 12
        for part, first in ((found.train, 0), (found.valid, 9), (found.test, 10)):
            pixels = (part.inputs * 256).reshape(-1, 3, 32, 32)
            for label in range(10):  # black above one colour, in whole blocks, which JPEG keeps to a few levels
                wanted = np.repeat(colour(label, first), 1024).reshape(3, 32, 32)
                wanted[:, :16] = 0
                assert np.abs(pixels[label] - wanted).max() <= 4
        assert data.convert_cifar10(copies, tmp_path) == written

    def test_does_not_overwrite_published_batches(self, tmp_path, cifar):
        put(tmp_path / "cifar10", {"test_batch.bin": cifar["test_batch.bin"].tobytes()})
        assert message(lambda: data.convert_cifar10(jpeg_copies(tmp_path / "copies"), tmp_path)) == (
            f"{tmp_path}/cifar10/test_batch.bin: is there, and not made from copies; name another folder"
        )

    def test_copies_that_are_not_whole(self, tmp_path, cifar):
        assert message(lambda: data.convert_cifar10(tmp_path / "no", tmp_path)).endswith("no such folder or archive")
        (tmp_path / "text").write_text("no archive")
        assert "not a folder or a tar archive" in message(lambda: data.convert_cifar10(tmp_path / "text", tmp_path))
        copies = jpeg_copies(tmp_path / "copies")
        (copies / "test" / "cat" / "0001.jpg").write_bytes(b"no image")
        assert f"{copies}: test/cat/0001.jpg is not an image" in message(lambda: data.convert_cifar10(copies, tmp_path))
        (copies / "test" / "cat" / "0001.jpg").unlink()
        assert message(lambda: data.convert_cifar10(copies, tmp_path)) == (
            f"{copies}: has 1 files test/cat/*.jpg; 2 are needed"
        )
        assert not (tmp_path / "cifar10").exists()


def colour(label, number):
    """The colour of a class' image: training images are numbered from 0, and test images from 10."""
    return (20 + 20 * label, 250 - 20 * number, 5 * label + 10 * number)


def jpeg_copies(folder):
    """Ten images of each class to train on, and two to test on; the upper half is black."""
    from PIL import Image

    for part, numbers in (("train", range(10)), ("test", range(10, 12))):
        for label, name in enumerate(cifar10.CLASSES):
            (folder / part / name).mkdir(parents=True)
            for i, number in enumerate(numbers):
                image = Image.new("RGB", (32, 32), colour(label, number))
                image.paste((0, 0, 0), (0, 0, 32, 16))
                image.save(folder / part / name / f"{i:04}.jpg", quality=95, subsampling=0)
    return folder


class TestOwn:
    DRAW = np.random.default_rng(5)
    INPUTS, LABELS = DRAW.random((12, 3, 2)), np.arange(12) % 4

    def save(self, path, **arrays):
        np.savez(path, **arrays)
        return str(path)

    def parts(self, **other):
        return {
            f"{part}_{what}": array[where]
            for part, where in (("train", slice(0, 6)), ("valid", slice(6, 8)), ("test", slice(8, 12)))
            for what, array in (("inputs", self.INPUTS), ("labels", self.LABELS))
        } | other

    def test_npz_in_parts_or_with_a_split(self, tmp_path):
        one = load(self.save(tmp_path / "mine.npz", **self.parts()))
        two = load(self.save(tmp_path / "two.npz", inputs=self.INPUTS, labels=self.LABELS, split=[6, 2, 4]))
        for found, path in ((one, tmp_path / "mine.npz"), (two, tmp_path / "two.npz")):
            assert (found.name, found.source, found.classes, found.image_shape) == (path.stem, str(path), 4, (3, 2))
            assert (found.input_format.name, found.inputs) == ("float32", 6)
            assert [len(part) for part in (found.train, found.valid, found.test)] == [6, 2, 4]
            assert np.array_equal(found.test.inputs, self.INPUTS[8:].reshape(4, 6).astype(np.float32))
            assert found.test.labels.tolist() == [0, 1, 2, 3]

    def test_bytes_are_taken_as_256ths(self, tmp_path):
        inputs = np.arange(48, dtype=np.uint8).reshape(12, 4)
        found = load(self.save(tmp_path / "b.npz", inputs=inputs, labels=self.LABELS, split=[6, 2, 4]))
        assert found.input_format.name == "ufixed(8,0)" and found.train.stored.dtype == np.uint8
        assert (found.test.inputs * 256).astype(int).ravel().tolist() == list(range(32, 48))

    def test_values_for_labels(self, tmp_path):
        labels = self.DRAW.random((12, 5))
        found = load(self.save(tmp_path / "v.npz", inputs=self.INPUTS, labels=labels, split=[6, 2, 4]))
        assert (found.label_kind, found.classes, found.valid.labels.shape) == ("values", 5, (2, 5))

    def test_a_relative_path_is_from_the_working_directory(self, tmp_path, monkeypatch):
        self.save(tmp_path / "mine.npz", **self.parts())
        monkeypatch.chdir(tmp_path)
        assert load("mine.npz").source == "mine.npz"

    @pytest.mark.parametrize(
        ("change", "fault"),
        [
            ({"train_labels": np.zeros(5, int)}, "train_labels: 5 labels for 6 inputs; one label for each input is "),
            ({"valid_inputs": np.full((2, 3, 2), np.nan)}, "valid_inputs: nan in sample 0; finite numbers are needed"),
            ({"test_inputs": np.zeros((4, 7))}, "test: 7 inputs a sample, and train has 6; all parts need the same"),
            ({"test_labels": np.array([0, 1, -1, 0])}, "test_labels: -1 for sample 2; needed are whole numbers"),
            ({"test_inputs": np.zeros((4, 3, 2), "S3")}, "test_inputs: an array of |S3; numbers are needed"),
            ({"test_inputs": np.zeros((4, 3, 2), object)}, "not a .npz file of numbers (Object arrays cannot be "),
            ({"inputs": np.zeros((4, 6))}, "has no array labels, split; it has train_inputs, train_labels, "),
        ],
    )
    def test_npz_that_is_refused(self, tmp_path, change, fault):
        path = self.save(tmp_path / "mine.npz", **self.parts(**change))
        assert message(lambda: load(path)).startswith(f"{path}: {fault}")

    @pytest.mark.parametrize(
        ("split", "fault"),
        [
            ([6, 2, 5], "split: 6 + 2 + 5 samples; parts of 1 or more that add up to 12 are needed"),
            ([6, 6], "split: an array of int64, of shape (2,); needed are three whole numbers, the samples of train, "),
            ([0.5, 0.2, 0.3], "split: an array of float64, of shape (3,); needed are three whole numbers"),
        ],
    )
    def test_splits_that_are_refused(self, tmp_path, split, fault):
        path = self.save(tmp_path / "mine.npz", inputs=self.INPUTS, labels=self.LABELS, split=split)
        assert message(lambda: load(path)).startswith(f"{path}: {fault}")

    @pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 broken"])
    def test_files_that_are_no_npz(self, tmp_path, content):
        path = tmp_path / "mine.npz"
        assert message(lambda: load(str(path))) == f"{path}: no such file or folder"
        path.write_bytes(content)
        assert message(lambda: load(str(path))).startswith(f"{path}: not a .npz file of numbers (")

    @pytest.mark.parametrize("end", ["", ".gz"])
    def test_a_folder_of_idx_files(self, tmp_path, end):
        put(tmp_path, MNIST, end)
        found = load(f"{tmp_path}/")
        assert [len(part) for part in (found.train, found.valid, found.test)] == [5, 1, 2]
        assert (found.image_shape, found.classes) == ((3, 4), 1 + max(MNIST[LABELS][8:] + MNIST[TEST_LABELS][8:]))
        inputs = np.concatenate([part.stored for part in (found.train, found.valid)])
        assert inputs.tobytes() == MNIST[IMAGES][16:]
        put(tmp_path, {"valid-images-idx3-ubyte": idx((3, 3, 4)), "valid-labels-idx1-ubyte": idx((3,))})
        found = load(f"{tmp_path}/")
        assert [len(part) for part in (found.train, found.valid, found.test)] == [6, 3, 2]

    def test_idx_of_other_types(self, tmp_path):
        floats = np.arange(12, dtype=">f4").reshape(6, 2)
        shorts = bytes([0, 0, 11, 1]) + (6).to_bytes(4, "big") + np.arange(6, dtype=">i2").tobytes()
        head = bytes([0, 0, 13, 2]) + (6).to_bytes(4, "big") + (2).to_bytes(4, "big")
        for part in ("train", "test"):
            put(tmp_path, {f"{part}-images": head + floats.tobytes(), f"{part}-labels": shorts})
        found = load(f"{tmp_path}/")
        assert found.test.inputs.tolist() == floats.tolist() and found.test.labels.tolist() == list(range(6))

    def test_idx_folders_that_are_refused(self, tmp_path):
        put(tmp_path, MNIST)
        where = f"{tmp_path}/"
        (tmp_path / TEST_LABELS).unlink()
        assert message(lambda: load(where)).startswith(f"{tmp_path}: has no file *test-labels*; ")
        put(tmp_path, {TEST_LABELS: MNIST[LABELS]})
        assert message(lambda: load(where)).startswith(f"{tmp_path}/{TEST_LABELS}: labels: 6 labels for 2 inputs; ")
        put(tmp_path, {TEST_LABELS: b"\0\0\x07\x01" + bytes(4)})
        assert message(lambda: load(where)).startswith(f"{tmp_path}/{TEST_LABELS}: begins with 00000701; an IDX file ")
        put(tmp_path, {TEST_LABELS: b"\0\0\x08\x03" + b"\xff" * 12 + bytes(4)})
        assert message(lambda: load(where)) == (
            f"{tmp_path}/{TEST_LABELS}: is truncated: 20 bytes unpacked, not {16 + (2**32 - 1) ** 3}"
        )
        put(tmp_path, {TEST_LABELS: b"\0\0\x08\x03" + bytes(4)})
        assert message(lambda: load(where)) == f"{tmp_path}/{TEST_LABELS}: is truncated: ends in its header"
        put(tmp_path, {TEST_LABELS: MNIST[TEST_LABELS], f"my-{TEST_LABELS}": MNIST[TEST_LABELS]})
        assert message(lambda: load(where)) == (
            f"{tmp_path}: has my-{TEST_LABELS}, {TEST_LABELS}; one of them is needed"
        )

    def test_registered(self, monkeypatch):
        monkeypatch.setattr(data, "_REGISTERED", {})
        few, asked = Samples(np.eye(3), [0, 1, 2]), []
        data.register("mine", lambda folder: asked.append(folder) or DataSet.of(few, few, few, "mine"))
        assert load("mine", "here").name == "mine" and asked == ["here"]
        for taken in ("mnist", "a/b", "x.npz"):
            with pytest.raises(ValueError, match=f"^data set '{taken}': choose a name without a slash that is not one"):
                data.register(taken, lambda folder: None)


@pytest.mark.parametrize("where", ["mnist", "./own"])
def test_a_gzip_bomb_is_refused_in_little_memory(tmp_path, where):
    """600 kB that unpack to 600 MB, in a process that can have 100 MB more than it has."""
    bomb = zlib.compressobj(9, wbits=31)
    folder = tmp_path / Path(where).name
    put(folder, MNIST)
    (folder / IMAGES).unlink()
    with (folder / f"{IMAGES}.gz").open("wb") as file:
        file.write(bomb.compress(MNIST[IMAGES]))
        for _ in range(600):
            file.write(bomb.compress(bytes(1_000_000)))
        file.write(bomb.flush())
    assert (folder / f"{IMAGES}.gz").stat().st_size < 1_000_000
    program = f"""
import resource
import lowbit_dtp.data as data
from pathlib import Path
files = tuple(data.IdxFile(f, s, data.Digest("", "gz")) for f, s in {SHAPES!r}.items())
data.SOURCES["mnist"] = data.Source("", data.SOURCES["mnist"].input_format, (3, 4), (4, 2, 2), files)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000,) * 2)
try:
    data.load({where!r}, {str(tmp_path)!r})
except data.DataError as error:
    print(error)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(data.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    name = f"{IMAGES}.gz" if where == "./own" else f"{folder}/{IMAGES}.gz"
    assert done.stdout.endswith(f"{name}: is too long: more than 88 bytes unpacked\n"), done.stderr


@pytest.mark.skipif(
    not any((DATA_FOLDER / "cifar10" / f"test_batch.bin{end}").exists() for end in ("", ".gz")),
    reason=f"needs cifar10/test_batch.bin[.gz] in the folder that {data.FOLDER_VARIABLE} names",
)
def test_cifar10_itself():
    found = load("cifar10", DATA_FOLDER)
    assert [part.stored.shape for part in (found.train, found.valid, found.test)] == [
        (49_000, 3072), (1_000, 3072), (10_000, 3072)
    ]  # fmt: skip
    assert np.bincount(np.concatenate([found.train.labels, found.valid.labels])).tolist() == [5_000] * 10
    assert np.bincount(found.test.labels).tolist() == [1_000] * 10
    means = found.test.inputs.reshape(-1, 3, 1024).mean((0, 2))  # of the published images: 0.49, 0.48, 0.45
    assert np.abs(means - [0.494, 0.485, 0.450]).max() < 0.01
