"""Policies as transforms of torchvision: its own numbers, its own structures, its own loaders."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

import mixwell as mw
from mixwell.integrations.torchvision import CutMix, Mix, MixUp


@pytest.mark.parametrize(("ours", "theirs"), [(MixUp, v2.MixUp), (CutMix, v2.CutMix)])
@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_equals_torchvision(ours: type, theirs: type, alpha: float) -> None:
    """Same seed, same images and labels; pasted pixels bit for bit; the generator is left in the same state."""
    images, labels = torch.rand(5, 3, 13, 18), torch.randint(7, (5,))
    for seed in range(20):
        torch.manual_seed(seed)
        expected, after = theirs(alpha=alpha, num_classes=7)(images, labels), torch.rand(())
        torch.manual_seed(seed)
        got = ours(alpha=alpha, num_classes=7)(images, labels)
        assert torch.rand(()) == after
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
        assert theirs is v2.MixUp or torch.equal(got[0], expected[0])


def test_compose_and_choice() -> None:
    """Policies stand beside torchvision's transforms and nest in them; uint8 images stay uint8."""
    images, labels = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8), torch.arange(4)
    kinds = [Mix(mw.FMix(), 4), v2.CutMix(num_classes=4), Mix(mw.OneOf([mw.ResizeMix(), mw.SaliencyMix()]), 4)]
    transform = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomChoice(kinds), v2.ToDtype(torch.float32, scale=True)])
    for _ in range(10):
        mixed, targets = transform(images, labels)
        assert mixed.dtype == torch.float32 and mixed.max() <= 1 and targets.shape == (4, 4)
        torch.testing.assert_close(targets.sum(1), torch.ones(4))
    assert Mix(mw.MixUp(), 4)(images, labels)[0].dtype == torch.uint8


def test_pytrees() -> None:
    """Images, masks and videos of one batch follow one plan, and whatever else there is stays."""
    level = torch.arange(4.0)[:, None, None, None].expand(4, 3, 8, 8)
    video = tv_tensors.Video(level[:, None].expand(4, 2, 3, 8, 8).clone())
    sample = {
        "image": tv_tensors.Image(level.clone()),
        "seg": tv_tensors.Mask(torch.arange(4)[:, None, None].expand(4, 8, 8).clone()),
        "clip": video,
        "label": torch.arange(4),
        "name": "kept",
    }
    mixed = Mix(mw.CutMix(), num_classes=4)(sample)
    assert {key: type(value) for key, value in mixed.items()} == {key: type(value) for key, value in sample.items()}
    assert torch.equal(mixed["image"][:, 0], mixed["seg"].float())
    assert torch.equal(mixed["clip"][:, 1, 2], mixed["seg"].float())
    share = torch.stack([(mixed["seg"] == k).float().mean((1, 2)) for k in range(4)], 1)
    torch.testing.assert_close(mixed["label"], share)
    images, masks = Mix(mw.FMix(), labels_getter=None)(sample["image"], sample["seg"])
    assert torch.equal(images[:, 0], masks.float())


def scene(row: int, count: int) -> dict:
    low = torch.randint(0, 10, (count, 2)).float()
    boxes = torch.cat((low, torch.randint(2, 6, (count, 2)).float()), 1)
    masks = torch.zeros(count, 16, 16, dtype=torch.uint8)
    for mask, (x, y, w, h) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y : y + h, x : x + w] = 1
    return {
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYWH", canvas_size=(16, 16)),
        "labels": torch.full((count,), row),
        "masks": tv_tensors.Mask(masks),
        "image_id": 70 + row,
    }


def test_detection() -> None:
    """Labels and instance masks follow their boxes, and every mask lies within its box, whatever the format."""
    rows = [(torch.full((3, 16, 16), float(k)), scene(k, count)) for k, count in enumerate((2, 0, 3, 1))]
    transform = CutMix(min_visible=0.2)
    for _ in range(20):
        images, targets = transform.collate(rows)
        for k, target in enumerate(targets):
            count = len(target["boxes"])
            assert target["image_id"] == 70 + k and target["boxes"].format.value == "XYWH"
            assert len(target["labels"]) == len(target["weights"]) == len(target["masks"]) == count
            for (x, y, w, h), mask, label, weight in zip(
                target["boxes"].tolist(), target["masks"], target["labels"], target["weights"], strict=True
            ):
                ys, xs = mask.nonzero(as_tuple=True)
                assert [x, y, x + w, y + h] == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
                assert (images[k, 0][mask.bool()] == label).all() and weight >= 0.2


class Numbers(torch.utils.data.Dataset):
    """Images of one level each."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> tuple:
        return torch.full((3, 8, 8), float(index)), index


def ratios(seed: int, start: str) -> list[float]:
    """Return the ratios that two workers draw for a batch each."""
    generator = torch.Generator().manual_seed(seed)
    collate = Mix(mw.MixUp(pairing=mw.Roll()), num_classes=16).collate
    loader = DataLoader(
        Numbers(), 8, num_workers=2, collate_fn=collate, generator=generator, multiprocessing_context=start
    )
    return [float(targets[0, 8 * k]) for k, (_, targets) in enumerate(loader)]


def test_workers_draw_differently_and_reproducibly() -> None:
    """Two workers mix their batches differently; the loader's seed repeats both, however workers are started."""
    first = ratios(0, "fork")
    assert first[0] != first[1]
    assert ratios(1, "fork") != first
    assert ratios(0, "fork") == ratios(0, "spawn") == first


def test_errors_say_what_to_do() -> None:
    """Class indices need their number, boxes a list, and a batch images."""
    images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
    with pytest.raises(ValueError, match="num_classes must be given"):
        Mix(mw.MixUp())(images, labels)
    boxes = tv_tensors.BoundingBoxes(torch.rand(4, 4), format="XYXY", canvas_size=(8, 8))
    with pytest.raises(ValueError, match="list of targets"):
        Mix(mw.MixUp(), num_classes=4)(images, {"labels": labels, "boxes": boxes})
    with pytest.raises(ValueError, match="no images"):
        Mix(mw.MixUp(), labels_getter=None)({"name": "nothing"})
    assert "FMix()" in repr(Mix(mw.FMix(), num_classes=4))
