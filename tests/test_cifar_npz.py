"""CIFAR from one NumPy archive: labels as people store them, arrays that do not fit, and hostile files."""

from __future__ import annotations

import contextlib
import io
import resource
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")
from mixwell.train.cli import main
from mixwell.train.config import Config
from mixwell.train.data import load
from mixwell.train.dataset import DataSet
from mixwell.train.errors import RunError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def npz(folder: Path, **changes: object) -> DataSet:
    arrays = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:3], "y_test": LABELS[:3]} | changes
    np.savez(folder / "cifar.npz", **{k: v for k, v in arrays.items() if v is not None})  # type: ignore[arg-type]
    return load(Config(dataset="cifar10", data=str(folder)))


@pytest.mark.parametrize(
    "labels",
    [
        LABELS.tolist(), LABELS.astype(np.uint8), LABELS.astype(np.int16), LABELS[:, None], LABELS.astype(np.float32),
        np.eye(3)[LABELS], np.eye(3, dtype=np.uint8)[LABELS], np.eye(3, dtype=bool)[LABELS], LABELS[:, None] * 1.0,
    ],
    ids=lambda labels: f"{np.asarray(labels).dtype}-{np.asarray(labels).shape}",
)  # fmt: skip
def test_labels_in_any_form(tmp_path: Path, labels: object) -> None:
    data = npz(tmp_path, y_train=labels)
    assert data.train.labels.tolist() == LABELS.tolist() and data.train.labels.dtype == torch.int64
    assert data.classes == ["0", "1", "2"] and data.test.labels.tolist() == [0, 1, 2]
    assert load(Config(dataset="cifar10", data=str(tmp_path / "cifar.npz"))).classes == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y_train": LABELS[:5]}, r"y_train in .* must be one label for each of the 6 images, got shape \(5,\)"),
        ({"y_train": np.arange(7) % 3}, r"one label for each of the 6 images, got shape \(7,\)"),
        ({"y_test": LABELS[:2]}, r"y_test in .* one label for each of the 3 images"),
        ({"y_train": np.int64(3)}, r"one label for each of the 6 images, got shape \(\)"),
        ({"y_train": LABELS + 0.5}, "class indices from 0 to 9, got 0.5"),
        ({"y_train": LABELS * np.nan}, "class indices from 0 to 9, got nan"),
        ({"y_train": LABELS - np.inf}, "class indices from 0 to 9, got -inf"),
        ({"y_train": LABELS - 1}, "class indices from 0 to 9, got -1"),
        ({"y_train": LABELS * 10**9}, "class indices from 0 to 9, got 1000000000"),
        ({"y_train": np.full(6, 2**63, np.uint64)}, "class indices from 0 to 9, got 922"),
        ({"y_train": LABELS.astype(str)}, "must be whole numbers, got <U"),
        ({"y_train": LABELS + 1j}, "must be whole numbers, got complex"),
        ({"y_train": np.ones((6, 3))}, "is not one-hot"),
        ({"y_train": np.full((6, 2), 0.5)}, "is not one-hot"),
        ({"y_train": np.zeros((6, 1, 1, 2))}, r"class indices of shape \(N,\), got shape \(6, 1, 1, 2\)"),
        ({"y_train": LABELS * 0, "y_test": LABELS[:3] * 0}, "all labels .* are 0: expected two or more classes"),
        ({"x_train": IMAGES / 255}, r"x_train in .* must be uint8 in 0 to 255, got float64: convert it"),
        ({"x_test": (IMAGES[:3] / 255).astype(np.float32)}, "x_test in .* got float32: convert it"),
        ({"x_test": IMAGES[:3].transpose(0, 2, 3, 1)}, r"x_test .*use x.transpose\(0, 3, 1, 2\)"),
        ({"x_train": IMAGES.astype(np.int64)}, r"must be uint8 of shape \(N, 3, H, W\), got int64"),
        ({"x_train": IMAGES[0]}, r"must be uint8 of shape \(N, 3, H, W\), got uint8 of shape \(3, 32, 32\)"),
        ({"x_train": IMAGES[:, :1]}, r"got uint8 of shape \(6, 1, 32, 32\)"),
        ({"x_test": IMAGES[:0], "y_test": LABELS[:0]}, r"got uint8 of shape \(0, 3, 32, 32\)"),
        ({"x_test": IMAGES[:3, :, :16]}, "must have one size"),
        ({"x_train": None}, "must hold the arrays x_train, y_train, x_test and y_test"),
        ({"y_train": np.array([{}] * 6)}, "must hold the arrays"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(RunError, match=words) as caught:
        npz(tmp_path, **changes)
    assert "\n" not in str(caught.value)


def header(shape: str, dtype: str = "|u1") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        header("(10000000000, 3, 32, 32)") + bytes(100),
        header("(100000, 3, 1000, 1000)") + bytes(10**6),
        header("(-1, 3, 32, 32)") + bytes(3072),
        header("(1, 3, 32)", "<U1000000000"),
        b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535,
        b"\x93NUMPY\x09\x00",
        b"not an array",
        b"",
    ],
    ids=range(8),
)
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_sizes_that_a_file_states_are_not_trusted(tmp_path: Path, content: bytes, compression: int) -> None:
    np.savez(tmp_path / "good.npz", y_train=LABELS, x_test=IMAGES[:3], y_test=LABELS[:3])
    with zipfile.ZipFile(tmp_path / "good.npz") as good, zipfile.ZipFile(tmp_path / "cifar.npz", "w") as bad:
        for name in good.namelist():
            bad.writestr(name, good.read(name))
        bad.writestr("x_train.npy", content, compression)
    tracemalloc.start()
    with pytest.raises(RunError, match="must hold the arrays x_train, y_train, x_test and y_test: "):
        load(Config(dataset="cifar10", data=str(tmp_path)))
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_archive_with_a_wrong_size_in_its_directory(tmp_path: Path) -> None:
    """The directory of the archive states 3 GB for an array of a few bytes, and the array's own header agrees."""
    count = 10**6
    content = header(f"({count}, 3, 32, 32)")
    stated = len(content) + count * 3072
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(f"{name}.npy", content)
        for info in archive.infolist():
            info.file_size = stated
    (tmp_path / "cifar.npz").write_bytes(file.getvalue())
    with pytest.raises(RunError, match=f"x_train.npy states {stated} bytes, which .* bytes cannot hold"):
        load(Config(dataset="cifar10", data=str(tmp_path)))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 damaged", b"text", b"PK\x05\x06" + bytes(18)])
def test_damaged_archives(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cifar.npz").write_bytes(content)
    with pytest.raises(RunError, match="must hold the arrays") as caught:
        load(Config(dataset="cifar10", data=str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_every_cut_and_flip_of_an_archive(tmp_path: Path) -> None:
    npz(tmp_path, x_train=IMAGES[:, :, :4, :4], x_test=IMAGES[:3, :, :4, :4])
    path = tmp_path / "cifar.npz"
    content, generator = path.read_bytes(), np.random.default_rng(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(200):
        data = bytearray(content[: generator.integers(len(content))] if generator.random() < 0.2 else content)
        for _ in range(3 if data else 0):
            data[generator.integers(len(data))] = generator.integers(256)
        path.write_bytes(data)
        with contextlib.suppress(RunError):
            assert len(load(Config(dataset="cifar10", data=str(path))).train) == 6
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


def test_shared_archive(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = shared / "data" / "ci" / "cifar100_ci.npz"
    if not path.is_file():
        pytest.skip("no data/ci/cifar100_ci.npz in the shared folder")
    data = load(Config(dataset="cifar100", data=str(path), val_split=0.25))
    assert main(["check", str(path), "--dataset", "cifar100"]) == 0
    assert capsys.readouterr().out == (
        "train: 400 images of 10 classes, 40 to 40 of each\ntest: 100 images of 10 classes, 10 to 10 of each\n"
    )
    assert data.train.counts(10) == [30] * 10 and data.val.counts(10) == [10] * 10 and data.test.counts(10) == [10] * 10
