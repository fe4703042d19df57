"""Loaders against an image-by-image reference, data sets against the files they come from, and bad files."""

from __future__ import annotations

import io
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")
from PIL import Image

from mixwell.train import data as sets
from mixwell.train.config import Config
from mixwell.train.errors import RunError
from mixwell.train.loader import ArrayLoader, ProcessInfo, loaders, reflect

CPU = torch.device("cpu")


def small(count: int = 23, channels: int = 3, size: tuple[int, int] = (9, 7)) -> sets.DataSet:
    """A data set of noise whose image i has label i."""
    split = sets.Split(torch.randint(256, (count, channels, *size), dtype=torch.uint8), torch.arange(count))
    mean, std = (0.2, 0.4, 0.6)[:channels], (0.5, 0.25, 0.125)[:channels]
    return sets.DataSet(split, split, split, [str(i) for i in range(count)], channels, mean, std)


@pytest.mark.parametrize("pad", [0, 1, 4])
def test_reflect_is_numpys(pad):
    images = torch.randint(256, (2, 3, 6, 5), dtype=torch.uint8)
    expected = np.pad(images.numpy(), ((0, 0), (0, 0), (pad, pad), (pad, pad)), mode="reflect")
    assert np.array_equal(reflect(images, pad).numpy(), expected)


@pytest.mark.parametrize(("crop", "flip"), [(0, False), (0, True), (2, False), (3, True)])
def test_augmentation_image_by_image(crop, flip):
    """With the same draws, every image of an epoch equals one that NumPy pads, cuts, mirrors and normalises alone."""
    data = small()
    config = Config(batch_size=5, crop=crop, flip=flip, image_size=9)
    batches = list(ArrayLoader(data.train, data, config, ProcessInfo(CPU), torch.Generator().manual_seed(3)))
    draws = torch.Generator().manual_seed(3)
    order = torch.randperm(23, generator=draws)[:20]
    shift = torch.randint(2 * crop + 1, (2, 23), generator=draws)
    mirror = torch.rand(23, generator=draws) < 0.5
    assert len(batches) == 4
    assert torch.cat([labels for _, labels in batches]).tolist() == order.tolist()
    for image, row in zip(torch.cat([images for images, _ in batches]), order.tolist(), strict=True):
        pixels = np.pad(data.train.images[row].numpy(), ((0, 0), (crop, crop), (crop, crop)), mode="reflect")
        top, left = shift[:, row].tolist()
        pixels = pixels[:, top : top + 9, left : left + 7]
        pixels = pixels[:, :, ::-1] if flip and mirror[row] else pixels
        expected = (pixels / 255 - np.array(data.mean)[:, None, None]) / np.array(data.std)[:, None, None]
        np.testing.assert_allclose(image.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_every_shift_and_both_sides_occur_equally_often():
    data = small(3000, 1, (7, 8))
    images = torch.zeros(3000, 1, 7, 8, dtype=torch.uint8)
    images[:, :, 3, 2] = 255  # one bright pixel, whose place tells the draw
    data = replace(data, train=sets.Split(images, torch.arange(3000)))
    config = Config(batch_size=3000, crop=1, flip=True, image_size=7)
    [(batch, _)] = ArrayLoader(data.train, data, config, ProcessInfo(CPU), torch.Generator().manual_seed(0))
    counts = Counter(batch.flatten(1).argmax(1).tolist())
    assert len(counts) == 3 * 6 and all(abs(n - 3000 / 18) < 60 for n in counts.values())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_processes_share_every_batch(accumulate):
    """Two processes see together, piece by piece, what one process sees, and draw the same augmentation."""
    data, config = small(50), Config(batch_size=8, accumulate=accumulate, crop=1, flip=True, image_size=7)

    def epoch(rank: int, world: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        loader = ArrayLoader(data.train, data, config, ProcessInfo(CPU, rank, world), torch.Generator().manual_seed(1))
        batches = list(loader)
        assert len(batches) == len(loader) == 6 * accumulate
        return batches

    alone = torch.cat([images for images, _ in epoch(0, 1)])
    both = [torch.cat([a, b]) for (a, _), (b, _) in zip(epoch(0, 2), epoch(1, 2), strict=True)]
    assert torch.equal(torch.cat(both), alone)


@pytest.mark.parametrize(("count", "world"), [(7, 2), (8, 3), (2, 4), (10, 1)])
def test_evaluation_sees_every_image_once(count, world):
    data, config = small(count), Config(batch_size=3)
    parts = [ArrayLoader(data.val, data, config, ProcessInfo(CPU, rank, world)) for rank in range(world)]
    assert all(len(list(part)) == len(part) for part in parts)
    labels = [label for part in parts for _, batch in part for label in batch.tolist()]
    assert sorted(labels) == list(range(count))


def test_loader_continues_from_its_state():
    data, config = small(), Config(batch_size=5, crop=1, image_size=7)
    loader = ArrayLoader(data.train, data, config, ProcessInfo(CPU), torch.Generator().manual_seed(1))
    list(loader)
    state = loader.generator.get_state()
    second = [labels.tolist() for _, labels in loader]
    loader.generator.set_state(state)
    assert [labels.tolist() for _, labels in loader] == second


def test_batches_that_cannot_be_dealt():
    for values, world, sentence in [
        ({"batch_size": 9}, 2, "must divide by 2"),
        ({"batch_size": 9, "accumulate": 2}, 1, "must divide by 2"),
        ({"batch_size": 24}, 1, "exceeds the 23 training images"),
    ]:
        with pytest.raises(RunError, match=sentence):
            loaders(Config(**values), small(), ProcessInfo(CPU, 0, world))


def test_stratified_is_even_and_fixed():
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    chosen, others = sets.stratified(labels, 45, 3)
    assert Counter(labels[chosen].tolist()) == {0: 15, 1: 15, 2: 15}
    assert sorted([*chosen.tolist(), *others.tolist()]) == list(range(100))
    assert torch.equal(chosen, sets.stratified(labels, 45, 3)[0])
    assert set(sets.stratified(labels, 30, 3)[0].tolist()) <= set(chosen.tolist())  # a smaller subset lies in a larger


def test_digits_subset_and_split():
    pytest.importorskip("sklearn")
    data = sets.load(Config(dataset="digits", subset=100, val_split=0.2, image_size=16))
    assert (len(data.train), len(data.val), len(data.test)) == (80, 20, 897)
    assert data.train.images.shape == (80, 1, 16, 16) and data.train.images.dtype == torch.uint8
    assert Counter(data.val.labels.tolist()) == dict.fromkeys(range(10), 2)
    known = {image.numpy().tobytes() for image in data.train.images}
    assert not known & {image.numpy().tobytes() for split in (data.val, data.test) for image in split.images}
    pixels = data.test.images / 255
    assert abs(pixels.mean() - data.mean[0]) < 0.02 and abs(pixels.std() - data.std[0]) < 0.05
    with pytest.raises(RunError, match="subset asks for 901 training images, and there are 900"):
        sets.load(Config(dataset="digits", subset=901))


def pickles(folder: Path, hundred: bool) -> tuple[np.ndarray, list[int]]:
    """Write CIFAR as its authors did, in miniature."""
    generator = np.random.default_rng(0)
    names = ["train"] if hundred else [f"data_batch_{i}" for i in range(1, 6)]
    folder.mkdir(parents=True)
    key, meta = (
        (b"fine_labels", ("meta", b"fine_label_names")) if hundred else (b"labels", ("batches.meta", b"label_names"))
    )
    written = []
    for name in [*names, "test" if hundred else "test_batch"]:
        pixels = generator.integers(0, 256, (4, 3072), dtype=np.uint8)
        labels = generator.integers(0, 10, 4).tolist()
        (folder / name).write_bytes(pickle.dumps({b"data": pixels, key: labels}, protocol=2))
        written.append((pixels, labels))
    (folder / meta[0]).write_bytes(pickle.dumps({meta[1]: [b"cat", b"dog"] * (50 if hundred else 5)}))
    return np.concatenate([p for p, _ in written[:-1]]), [y for _, ys in written[:-1] for y in ys]


@pytest.mark.parametrize(("name", "folder"), [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")])
@pytest.mark.parametrize("inside", [True, False])
def test_cifar_pickles(tmp_path, name, folder, inside):
    pixels, labels = pickles(tmp_path / folder, name == "cifar100")
    data = sets.load(Config(dataset=name, data=str(tmp_path / folder if inside else tmp_path)))
    assert np.array_equal(data.train.images.numpy().reshape(-1, 3072), pixels) and data.train.labels.tolist() == labels
    assert len(data.test) == 4 and data.classes[:2] == ["cat", "dog"] and len(data.classes) == int(name[5:])


def test_cifar_npz_missing_and_hostile_files(tmp_path):
    config = Config(dataset="cifar100", data=str(tmp_path))
    with pytest.raises(
        RunError, match=r"no CIFAR-100 in .*: expected train, test in .*cifar-100-python .*kriz/cifar.html.*cifar.npz"
    ):
        sets.load(config)
    images = np.zeros((3, 3, 32, 32), np.uint8)
    np.savez(
        tmp_path / "cifar.npz", x_train=images, y_train=[0, 1, 2], x_test=images, y_test=np.array([2, 1, 0], np.uint8)
    )
    assert sets.load(config).test.labels.tolist() == [2, 1, 0]
    np.savez(tmp_path / "cifar.npz", x_train=images)
    with pytest.raises(RunError, match=r"must hold the arrays x_train, y_train, x_test and y_test"):
        sets.load(config)
    folder = tmp_path / "cifar-100-python"
    pickles(folder, hundred=True)
    (folder / "train").write_bytes(pickle.dumps(io.BytesIO))
    with pytest.raises(RunError, match=r"not a CIFAR pickle: it names _io.BytesIO"):
        sets.load(config)


def tree(root: Path, splits=("train", "val"), classes=("ant", "bee"), count=4) -> Path:
    for split in splits:
        for index, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for n in range(count):
                pixels = np.full((20 + n, 30, 3), 60 * index + 10 * n, np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{n}.png")
    return root


@pytest.mark.parametrize("workers", [0, 1])
def test_folder_batches(tmp_path, workers):
    pytest.importorskip("torchvision")
    config = Config(dataset="folder", data=str(tree(tmp_path)), image_size=16, batch_size=4, workers=workers, flip=True)
    data = sets.load(config)
    assert data.classes == ["ant", "bee"] and data.test is data.val
    train, val, _ = loaders(config, data, ProcessInfo(CPU))
    images, labels = (torch.cat(parts) for parts in zip(*train, strict=True))
    assert images.shape == (8, 3, 16, 16) and sorted(labels.tolist()) == [0] * 4 + [1] * 4
    images, labels = (torch.cat(parts) for parts in zip(*val, strict=True))
    grey = (images * torch.tensor(data.std).view(3, 1, 1) + torch.tensor(data.mean).view(3, 1, 1)).mean((1, 2, 3)) * 255
    assert grey.round().tolist() == [0, 10, 20, 30, 60, 70, 80, 90] and labels.tolist() == [0] * 4 + [1] * 4
    (tmp_path / "val" / "bee" / "2.png").write_bytes(b"\x89PNG no more")
    with pytest.raises(RunError) as caught:
        list(val)
    assert str(caught.value).startswith(f"cannot read the image {tmp_path / 'val' / 'bee' / '2.png'}: ")
    assert "\n" not in str(caught.value)


def test_folders_that_are_not_as_expected(tmp_path):
    pytest.importorskip("torchvision")

    def complaint(root: Path) -> str:
        with pytest.raises(RunError) as caught:
            sets.load(Config(dataset="folder", data=str(root)))
        return str(caught.value)

    assert "no image folders in" in complaint(tmp_path / "none")
    assert "no image folders in" in complaint(tree(tmp_path / "a", splits=("train",)))
    assert "no images in" in complaint(tree(tmp_path / "b", count=0))
    (tmp_path / "c" / "train").mkdir(parents=True)
    (tmp_path / "c" / "val").mkdir()
    assert "no class folders in" in complaint(tmp_path / "c")
    tree(tmp_path / "d")
    (tmp_path / "d" / "val" / "bee").rename(tmp_path / "d" / "val" / "wasp")
    assert "must hold the same classes, and differ in 'bee'" in complaint(tmp_path / "d")
    with pytest.raises(RunError, match="no data set called 'cifar'; did you mean cifar10"):
        sets.load(Config(dataset="cifar"))
