"""Loaders against an image-by-image reference, and images that cannot be read."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")
from PIL import Image

from mixwell import Normalization
from mixwell.train import data as sets
from mixwell.train.augment import reflect
from mixwell.train.config import Config
from mixwell.train.errors import RunError
from mixwell.train.images import BadImageError, BadImages
from mixwell.train.loader import ArrayLoader, ProcessInfo, evaluation_loader, loaders

CPU = torch.device("cpu")


def small(count: int = 23, channels: int = 3, size: tuple[int, int] = (9, 7)) -> sets.DataSet:
    """A data set of noise whose image i has label i."""
    split = sets.Split(torch.randint(256, (count, channels, *size), dtype=torch.uint8), torch.arange(count))
    normalization = Normalization((0.2, 0.4, 0.6)[:channels], (0.5, 0.25, 0.125)[:channels])
    return sets.DataSet(split, split, split, [str(i) for i in range(count)], channels, normalization)


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
        mean, std = (np.array(x)[:, None, None] for x in (data.normalization.mean, data.normalization.std))
        expected = (pixels / 255 - mean) / std
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
    grey = data.normalization.pixels(images).mean((1, 2, 3)) * 255
    assert grey.round().tolist() == [0, 10, 20, 30, 60, 70, 80, 90] and labels.tolist() == [0] * 4 + [1] * 4
    (tmp_path / "val" / "bee" / "2.png").write_bytes(b"\x89PNG no more")
    with pytest.raises(RunError) as caught:
        list(val)
    assert str(caught.value).startswith(f"cannot read the image {tmp_path / 'val' / 'bee' / '2.png'}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_images_are_skipped_and_listed(tmp_path, workers):
    """In training the next image takes the place of a bad one; in evaluation it is left out."""
    run = tmp_path / "run"
    run.mkdir()
    root = tree(tmp_path / "data")
    bad = {root / "train" / "ant" / "1.png": b"", root / "train" / "bee" / "3.png": b"not an image"}
    bad |= {root / "val" / "ant" / "0.png": b"\x89PNG no more", root / "val" / "ant" / "1.png": b"\xff\xd8\xff\xe0"}
    for path, content in bad.items():
        path.write_bytes(content)
    values = {"dataset": "folder", "data": str(root), "image_size": 16, "batch_size": 2, "workers": workers}
    config = Config(**values, bad_images="skip")
    data = sets.load(config)
    train, val, _ = loaders(config, data, ProcessInfo(CPU), run)
    assert Counter(torch.cat([labels for _, labels in train]).tolist()) == {0: 5, 1: 3}  # the row after the last is 0
    assert torch.cat([labels for _, labels in val]).tolist() == [0, 0, 1, 1, 1, 1]
    assert len(list(train)) == len(train) == 4
    listed = [line.split("\t") for line in (run / "bad_images.txt").read_text().splitlines()]
    assert sorted(path for path, _ in listed) == sorted(map(str, bad)) and all(reason for _, reason in listed)
    again = loaders(config, data, ProcessInfo(CPU), run)[1]
    list(again)  # as a resumed run
    assert len((run / "bad_images.txt").read_text().splitlines()) == 4
    stop = loaders(replace(config, bad_images="stop"), data, ProcessInfo(CPU), run)[1]
    with pytest.raises(RunError, match=r"cannot read the image .*0.png: .*--bad_images skip .*mixwell check DIR"):
        list(stop)
    with pytest.raises(RunError, match="bad_images must be one of stop, skip, but is 'ignore'"):
        Config(bad_images="ignore")


def test_names_of_bad_images_are_one_line(tmp_path, capsys):
    """A line break or an escape sequence in a name of a file changes neither the message nor the list."""
    for _ in range(2):
        BadImages(skip=True, file=tmp_path / "bad.txt").add([("a\nb\x1b[31m\udcff.png", "it is\nempty")])
    name = r"a\nb\x1b[31m\udcff.png"
    assert (tmp_path / "bad.txt").read_text() == f"{name}\tit is\\nempty\n"
    assert capsys.readouterr().err == 2 * f"skipped the image {name}: it is\\nempty\n"
    assert str(BadImageError("a\nb.png", "it is empty")) == r"cannot read the image a\nb.png: it is empty"


def test_no_image_can_be_read(tmp_path):
    for path in tree(tmp_path).rglob("*.png"):
        path.write_bytes(b"")
    config = Config(dataset="folder", data=str(tmp_path), image_size=16, batch_size=2, bad_images="skip")
    train, val, _ = loaders(config, sets.load(config), ProcessInfo(CPU))
    with pytest.raises(RunError, match="none of the 8 training images can be read"):
        list(train)
    assert list(val) == []


@pytest.mark.parametrize("share", [0.02, 2.5])
def test_decompression_bomb_is_one_sentence(tmp_path, monkeypatch, share):
    """Above Pillow's limit a warning is ignored, above twice the limit the image is bad."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(20 * 30 / share))
    config = Config(dataset="folder", data=str(tree(tmp_path, count=1)), image_size=16, batch_size=2, workers=0)
    train = loaders(config, sets.load(config), ProcessInfo(CPU))[0]
    if share < 1:
        assert len(list(train)) == 1
    else:
        with pytest.raises(RunError, match=r"cannot read the image .*decompression bomb"):
            list(train)


def test_labels_may_be_dense(tmp_path):
    """A split with several labels per image keeps them, from memory and from files."""
    config = Config(dataset="folder", data=str(tree(tmp_path)), image_size=16, batch_size=4)
    data = sets.load(config)
    dense = torch.randint(2, (8, 3))
    batches = list(evaluation_loader(replace(data.val, labels=dense), data, config, ProcessInfo(CPU)))
    assert torch.equal(torch.cat([labels for _, labels in batches]), dense)
    assert replace(data.val, labels=dense).counts(3) == dense.sum(0).tolist()


def test_copies_of_an_image_in_an_epoch():
    """Repeated augmentation: as many steps, a third of the images, three copies of each with crops of their own."""
    data, config = small(24), Config(batch_size=4, crop=2, image_size=9, repeats=3)
    train, val, _ = loaders(config, data, ProcessInfo(CPU))
    batches = list(train)
    assert len(batches) == len(train) == 6 and len(val) == 6
    seen = Counter(int(label) for _, labels in batches for label in labels)
    assert set(seen.values()) == {3} and len(seen) == 8
    images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    copies = [images[labels == label].unique(dim=0) for label in seen]
    assert sum(len(each) for each in copies) > 8  # a copy may have the crop of another by chance


def test_size_of_images_in_evaluation(tmp_path):
    """Training at one size, evaluation at another: files are resized and cut to it, arrays resized."""
    for split, name in ((split, name) for split in ("train", "val") for name in "ab"):
        folder = tmp_path / split / name
        folder.mkdir(parents=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(folder / "0.png")
    config = Config(dataset="folder", data=str(tmp_path), batch_size=2, image_size=16, eval_size=24, eval_crop=0.75)
    train, val, _ = loaders(config, sets.load(config), ProcessInfo(CPU))
    assert next(iter(train))[0].shape[2:] == (16, 16)
    [(images, _)] = val
    file = Image.open(tmp_path / "val" / "a" / "0.png").resize((32, 42), Image.Resampling.BICUBIC)
    pixels = np.asarray(file.crop((4, 9, 28, 33)), np.float32).transpose(2, 0, 1)
    mean, std = (each.numpy() for each in (val.mean, val.std))
    np.testing.assert_allclose(images[0].numpy(), (pixels - mean) / std, atol=1e-5)
    arrays, config = small(4, size=(9, 9)), Config(batch_size=2, image_size=9, eval_size=12)
    train, val, _ = loaders(config, arrays, ProcessInfo(CPU))
    assert next(iter(train))[0].shape[2:] == (9, 9) and next(iter(val))[0].shape[2:] == (12, 12)
