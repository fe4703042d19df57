"""What may happen to an image besides crop and flip: resizing, RandAugment, a box of noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")
pytest.importorskip("torchvision")
pytest.importorskip("timm")
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from mixwell import Normalization
from mixwell.train import data as sets
from mixwell.train import display
from mixwell.train.augment import erase
from mixwell.train.cli import main
from mixwell.train.config import Config
from mixwell.train.errors import RunError
from mixwell.train.loader import ArrayLoader, FolderLoader, Loader, ProcessInfo, loaders

CPU = torch.device("cpu")
NEVER = "rand-m9-p0"  # operations of probability 0


def noise(count: int = 12, side: int = 12, channels: int = 3) -> sets.DataSet:
    """A data set of noise whose image i has label i, and whose pixels are not normalised."""
    split = sets.Split(torch.randint(256, (count, channels, side, side), dtype=torch.uint8), torch.arange(count))
    return sets.DataSet(split, split, split, [str(i) for i in range(count)], channels, Normalization(0.0, 1 / 255))


def both(config: Config, data: sets.DataSet) -> tuple[Loader, Loader]:
    train, val, _ = loaders(config, data, ProcessInfo(CPU))
    return train, val


def all_of(loader: Loader) -> tuple[Tensor, list[int]]:
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    return images, labels.tolist()


def test_arrays_of_another_size_are_resized_as_pillow_does() -> None:
    data = noise()
    train, val = both(Config(batch_size=4, image_size=30, scale=0.8, flip=True), data)
    images, labels = all_of(val)
    for image, label in zip(images, labels, strict=True):
        picture = Image.fromarray(data.val.images[label].permute(1, 2, 0).numpy())
        expected = np.asarray(picture.resize((30, 30), Image.Resampling.BICUBIC)).astype(float)
        np.testing.assert_allclose(image.permute(1, 2, 0).numpy(), expected, atol=0.51)
    images, labels = all_of(train)
    assert images.shape == (12, 3, 30, 30) and sorted(labels) == list(range(12))
    plain = both(Config(batch_size=4, image_size=12), data)
    assert [type(loader) for loader in plain] == [ArrayLoader, ArrayLoader]


def test_augment_keeps_crop_and_flip() -> None:
    """With operations that never happen, every image is a window of its padded original, perhaps mirrored."""
    data = noise()
    train, val = both(Config(batch_size=4, image_size=12, crop=2, flip=True, augment=NEVER), data)
    assert type(train) is FolderLoader and type(val) is ArrayLoader
    seen = set()
    for image, label in zip(*all_of(train), strict=True):
        padded = np.pad(data.train.images[label].numpy(), ((0, 0), (2, 2), (2, 2)), mode="reflect")
        windows = {(y, x): padded[:, y : y + 12, x : x + 12] for y in range(5) for x in range(5)}
        pixels = image.byte().numpy()
        found = [
            (place, mirrored)
            for place, window in windows.items()
            for mirrored, one in enumerate((window, window[:, :, ::-1]))
            if np.array_equal(one, pixels)
        ]
        assert len(found) == 1
        seen |= set(found)
    assert len(seen) > 6 and {mirrored for _, mirrored in seen} == {0, 1}


def test_augment_changes_training_images_alone() -> None:
    data = noise()
    train, val = both(Config(batch_size=4, image_size=12, augment="rand-m9-n2-p1"), data)
    images, labels = all_of(train)
    clean = data.train.images[labels].float()
    assert ((images - clean).abs().amax((1, 2, 3)) > 1).sum() >= 8
    images, labels = all_of(val)
    torch.testing.assert_close(images, data.val.images[labels].float(), atol=1e-3, rtol=0)


def test_augment_that_cannot_be() -> None:
    for text in ("rund-m9", "rand-m9-n0", "rand-m9-n99999999", "rand-m99999"):
        with pytest.raises(RunError, match=rf"augment must be like rand-m9-mstd0\.5-inc1, got '{text}'"):
            both(Config(batch_size=4, image_size=12, augment=text), noise())
    with pytest.raises(RunError, match="augment needs images of 3 channels, and these have 1"):
        both(Config(batch_size=4, image_size=12, augment="rand-m9"), noise(channels=1))


@pytest.mark.parametrize("augment", ["", NEVER])
def test_erasing_fills_one_box_with_noise(augment: str) -> None:
    """Half of the images have one box of noise of mean 0 and deviation 1, which covers 2 to 33 per cent."""
    data = noise(400)
    data = replace(data, train=replace(data.train, images=torch.full_like(data.train.images, 77)))
    train, val = both(Config(batch_size=100, image_size=12, erasing=0.5, augment=augment), data)
    inside, images = [], all_of(train)[0]
    for image, mask in zip(images, ((images - 77).abs() > 1e-3).any(1), strict=True):
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        if len(rows):
            assert mask[rows][:, columns].all() and mask.sum() == len(rows) * len(columns)  # one box
            assert 0.01 < mask.float().mean() < 0.4
            inside.append(image[:, mask].flatten())
    assert 160 < len(inside) < 240
    values = torch.cat(inside)
    assert abs(values.mean()) < 0.03 and abs(values.std() - 1) < 0.03
    torch.testing.assert_close(all_of(val)[0], data.val.images.float(), atol=1e-3, rtol=0)


def test_erased_boxes_are_those_of_torchvision() -> None:
    """Height, width and place of the boxes have the distributions that torchvision's transform draws from."""
    stats = pytest.importorskip("scipy.stats", reason="SciPy is not installed")
    from torchvision.transforms import v2

    transform, image = v2.RandomErasing(1.0), torch.zeros(1, 24, 15)
    peer = [transform.make_params([image]) for _ in range(3000)]
    theirs = [[float(box[name]) for name in "hwij"] for box in peer if box["v"] is not None]
    ours = []
    for changed in erase(torch.zeros(3000, 1, 24, 15), 1.0)[:, 0] != 0:
        rows, columns = changed.any(1).nonzero()[:, 0], changed.any(0).nonzero()[:, 0]
        if len(rows):
            ours.append([len(rows), len(columns), rows[0].item(), columns[0].item()])
    assert abs(len(ours) - len(theirs)) < 30  # wide boxes do not fit into all images
    for mine, other in zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True):
        assert stats.ks_2samp(mine, other).pvalue > 1e-4


def test_erasing_leaves_resized_images_of_the_test_alone() -> None:
    data = noise()
    config = Config(batch_size=4, image_size=30)
    clean, noisy = (all_of(both(replace(config, erasing=share), data)[1])[0] for share in (0.0, 1.0))
    assert torch.equal(clean, noisy)


def test_eval_crop(tmp_path: Path) -> None:
    """The middle of an image scaled so that its side is this much larger; with 1, the whole of it."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for split in ("train", "val"):
        for name in ("one", "two"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / split / name / "0.png")
    for share, side in ((1.0, 20), (0.5, 40)):
        config = Config(dataset="folder", data=str(tmp_path), image_size=20, batch_size=1, eval_crop=share)
        data = replace(sets.load(config), normalization=Normalization(0.0, 1 / 255))
        image = all_of(both(config, data)[1])[0][0].permute(1, 2, 0).numpy()
        whole = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)).astype(float)
        edge = (side - 20) // 2
        np.testing.assert_allclose(image, whole[edge : edge + 20, edge : edge + 20], atol=0.51)


def test_a_break_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Augmentation and noise go on where they were: the weights of a resumed run are those of an undisturbed one."""
    parts = {name: noise(20, 12).train for name in ("train", "test")}
    arrays = {
        f"{axis}_{name}": value for name, p in parts.items() for axis, value in (("x", p.images), ("y", p.labels))
    }
    np.savez(tmp_path / "cifar.npz", **{name: value.numpy() for name, value in arrays.items()})
    words = [
        "--data",
        str(tmp_path),
        "--model",
        "mini_resnet",
        "--method",
        "Mixing",
        "--policy",
        "none",
        "--epochs",
        "3",
    ]
    words += ["--image_size", "16", "--batch_size", "10", "--augment", "rand-m9-n2", "--erasing", "0.5"]
    words += ["--save_every", "1", "--crop", "0", "--threads", "1", "--device", "cpu"]
    args = ["train", "cifar100_resnet18", *words]
    assert main([*args, "--out", str(tmp_path / "a")]) == 0
    shown, steps = display.Display.step, []

    def stop(self: display.Display, images: int) -> None:
        shown(self, images)
        steps.append(images)
        if len(steps) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(display.Display, "step", stop)
        assert main([*args, "--out", str(tmp_path / "b")]) == 130
    assert main(["train", "--resume", str(tmp_path / "b")]) == 0
    mine, theirs = (load_file(tmp_path / run / "model.safetensors") for run in "ab")
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_every_process_augments_in_its_own_way() -> None:
    """The rows are shared out from one order; equal images come out unequal between processes."""
    data = noise(8)
    data.train.images.copy_(data.train.images[:1].expand_as(data.train.images))
    config = Config(batch_size=8, image_size=12, crop=4, augment="rand-m9-mstd0.5", workers=1)
    seen, rows = [], []
    for rank in range(2):
        train = loaders(config, data, ProcessInfo(CPU, rank, 2))[0]
        images, labels = next(iter(train))
        seen.append(images)
        rows += labels.tolist()
    assert sorted(rows) == list(range(8))
    assert not torch.equal(*seen)
