"""CIFAR from pickles: valid files of every protocol, hostile ones, and mutated ones."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")
from mixwell.train import cifar_pickle
from mixwell.train.config import Config
from mixwell.train.data import load
from mixwell.train.errors import RunError


def pickles(folder: Path, hundred: bool, protocol: int = 2, count: int = 4) -> tuple[np.ndarray, list[int]]:
    """Write CIFAR as its authors did, in miniature; return the training images and labels."""
    generator = np.random.default_rng(0)
    names = ["train"] if hundred else [f"data_batch_{i}" for i in range(1, 6)]
    folder.mkdir(parents=True)
    key, meta = (
        (b"fine_labels", ("meta", b"fine_label_names")) if hundred else (b"labels", ("batches.meta", b"label_names"))
    )
    written = []
    for name in [*names, "test" if hundred else "test_batch"]:
        pixels = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
        labels = generator.integers(0, 10, count).tolist()
        (folder / name).write_bytes(pickle.dumps({b"data": pixels, key: labels}, protocol))
        written.append((pixels, labels))
    words = [f"class {i}".encode() for i in range(100 if hundred else 10)]
    (folder / meta[0]).write_bytes(pickle.dumps({meta[1]: words}, protocol))
    return np.concatenate([p for p, _ in written[:-1]]), [y for _, ys in written[:-1] for y in ys]


@pytest.mark.parametrize(("name", "folder"), [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")])
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_cifar_pickles(tmp_path: Path, name: str, folder: str, inside: bool, protocol: int) -> None:
    pixels, labels = pickles(tmp_path / folder, name == "cifar100", protocol)
    data = load(Config(dataset=name, data=str(tmp_path / folder if inside else tmp_path)))
    assert isinstance(data.train.images, torch.Tensor)
    assert np.array_equal(data.train.images.numpy().reshape(-1, 3072), pixels) and data.train.labels.tolist() == labels
    assert len(data.test) == 4 and data.classes[:2] == ["class 0", "class 1"] and len(data.classes) == int(name[5:])


PYTHON2 = (  # what Python 2 and NumPy 1 wrote for {"labels": [1, 0], "data": zeros((2, 3072), uint8)}
    b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03(K\x01K\x00eU\x04dataq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05"
    b"cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01\x87R"
    b"q\t(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x18\x00\x00" + bytes(6144) + b"tbu."
)


def test_files_of_python_2(tmp_path: Path) -> None:
    (tmp_path / "test_batch").write_bytes(PYTHON2)
    data = load(Config(dataset="cifar10", data=str(tmp_path)), only="test")
    assert data.test.labels.tolist() == [1, 0] and data.test.images.shape == (2, 3, 32, 32)
    with pytest.raises(RunError, match="no training images in"):
        load(Config(dataset="cifar10", data=str(tmp_path)))


class Call:
    """Pickles as a call of a function with arguments."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


def laughs(depth: int = 64) -> list[object]:
    """A list that holds 2 ** depth numbers if it is ever written out."""
    found: list[object] = [1]
    for _ in range(depth):
        found = [found, found]
    return found


def nested(depth: int = 100_000) -> bytes:
    return b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."


GOOD = np.zeros((2, 3072), np.uint8)
REFUSED = {
    "system": pickle.dumps({b"data": GOOD, b"labels": Call(os.system, "exit 1")}),
    "ndarray": pickle.dumps({b"data": Call(np.ndarray, (2, 3072), "u1", b"short"), b"labels": [0, 1]}),
    "strides": pickle.dumps({b"data": Call(np.ndarray, (2, 2), "u1", b"1234", 0, (2**40, 2**40)), b"labels": [0, 1]}),
    "objects": pickle.dumps({b"data": np.array([[1, "x"]], object), b"labels": [0]}),
    "wider": pickle.dumps({b"data": GOOD.astype(np.int64), b"labels": [0, 1]}),
    "memo": b"\x80\x02}r\xff\xff\xff\xff.",
    "length": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "text length": b"\x80\x02X\xff\xff\xff\xff.",
    "length of a bytearray": b"\x80\x05\x96\x00\x00\x00\x40\x00\x00\x00\x00.",
    "nested": nested(),
    "laughs in labels": pickle.dumps({b"data": GOOD, b"labels": laughs()}),
    "laughs as a name": pickle.dumps(laughs())[:-1] + b"\x8c\x01x\x93.",
    "laughs as a type": b"\x80\x04cnumpy\ndtype\n" + pickle.dumps(laughs())[2:-1] + b"\x85R.",
    "large label": pickle.dumps({b"data": GOOD, b"labels": [0, 10**5000]}),
    "shape": PYTHON2.replace(b"M\x00\x0c", b"M\x00\x0d"),
    "large shape": PYTHON2.replace(b"K\x02M\x00\x0c\x86", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86"),
    "negative shape": PYTHON2.replace(b"K\x02M\x00\x0c\x86", b"J\xfe\xff\xff\xffJ\x00\xf4\xff\xff\x86"),
    "no dictionary": pickle.dumps([1, 2]),
    "no data": pickle.dumps({b"labels": [0, 1]}),
    "one more label": pickle.dumps({b"data": GOOD, b"labels": [0, 1, 2]}),
    "label 10": pickle.dumps({b"data": GOOD, b"labels": [0, 10]}),
    "label 10**9": pickle.dumps({b"data": GOOD, b"labels": [0, 10**9]}),
    "negative label": pickle.dumps({b"data": GOOD, b"labels": [0, -1]}),
    "text label": pickle.dumps({b"data": GOOD, b"labels": [0, "cat"]}),
    "float label": pickle.dumps({b"data": GOOD, b"labels": [0, 1.0]}),
    "empty": b"",
    "cut": PYTHON2[:3000],
    "no images": pickle.dumps({b"data": GOOD[:0], b"labels": []}),
    "flat": pickle.dumps({b"data": GOOD.reshape(-1), b"labels": [0, 1]}),
}
WORDS = {  # of what would have called something
    "system": "system, which is not part of a CIFAR file",
    "ndarray": "it calls numpy.ndarray, which is not part of a CIFAR file",
    "strides": "it calls numpy.ndarray, which is not part of a CIFAR file",
}


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_pickles_are_one_sentence(tmp_path: Path, name: str) -> None:
    """Nothing is called, and neither time nor memory is spent beyond the size of the file."""
    (tmp_path / "test_batch").write_bytes(REFUSED[name])
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(RunError) as caught:
        load(Config(dataset="cifar10", data=str(tmp_path)), only="test")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert WORDS.get(name, "") in str(caught.value)
    assert peak < 3_000_000 + 300 * len(REFUSED[name]) and time.process_time() - began < 20


def test_hostile_class_names(tmp_path: Path) -> None:
    pickles(tmp_path / "x", hundred=False)
    for content in ({b"label_names": laughs()}, {b"label_names": [b"a"]}, {}, {b"label_names": 3}):
        (tmp_path / "x" / "batches.meta").write_bytes(pickle.dumps(content))
        with pytest.raises(RunError, match=r"batches\.meta must hold "):
            load(Config(dataset="cifar10", data=str(tmp_path / "x")))


def test_file_that_is_too_large(tmp_path: Path) -> None:
    with (tmp_path / "test_batch").open("wb") as file:
        file.truncate(cifar_pickle.LARGEST + 1)  # takes no room on the disk
    with pytest.raises(RunError, match="it has 1073741825 bytes, expected at most 1073741824"):
        load(Config(dataset="cifar10", data=str(tmp_path)), only="test")


@pytest.mark.skipif(not hasattr(os, "fork") or not Path("/proc/self/statm").exists(), reason="needs Linux")
@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_fuzzed_pickles(count: int) -> None:
    """Mutated files, with a debugging allocator and little memory: each is loaded or refused by a sentence."""
    command = [sys.executable, "-X", "faulthandler", str(Path(__file__).with_name("fuzz_cifar.py")), str(count)]
    environment = os.environ | {"PYTHONMALLOC": "debug"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("Counter({") and done.stdout.count("\n") == 1


def test_real_cifar_takes_seconds(tmp_path: Path) -> None:
    """A file of the size of one of CIFAR-10's, with the names of all images."""
    pixels = np.random.default_rng(0).integers(0, 256, (10_000, 3072), dtype=np.uint8)
    names = [f"some_animal_s_{i:06d}.png".encode() for i in range(10_000)]
    labels = (np.arange(10_000) % 100).tolist()
    content = pickle.dumps({b"data": pixels, b"fine_labels": labels, b"filenames": names}, 2)
    began = time.process_time()
    found = cifar_pickle.parse(content)
    assert np.array_equal(found[b"data"], pixels) and found[b"fine_labels"] == labels
    assert time.process_time() - began < 10


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"no CIFAR-100 in .*: expected train, test in .*cifar-100-python .*kriz/cifar.html.*cifar.npz"
    ):
        load(Config(dataset="cifar100", data=str(tmp_path)))
