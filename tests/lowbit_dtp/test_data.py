"""Data sets: what is read, what is invalid and with which words, what is downloaded, and the order of minibatches."""

import gzip
import hashlib
import os
import subprocess
import sys
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowbit_dtp import data
from lowbit_dtp.data import DataError, Digest, IdxFile, Source, fetch, find, folders, load, order
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
    return Source("its makers", ufixed(8, 0), (4, 2, 2), files, mirrors)


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
        with pytest.raises(ValueError, match=r"^no data set 'minst'; there are: cifar10, digits, fashion-mnist, mnist$"):
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
            f"Put the 4 files of mnist, gzipped or not, in {tmp_path}/given/mnist by hand; or name the folder that has "
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
