"""Policies as transforms of torchvision: its own numbers, its own structures, its own loaders."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

import mixwell as mw
from catalogue import POLICIES
from mixwell.integrations.torchvision import CutMix, Mix, MixUp
from mixwell.plan import SharePlan, mix_boxes


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


def brute_force(box: list[float], share: torch.Tensor) -> tuple[list[int], float]:
    """Return the visible part of a box in whole pixels and its share, pixel by pixel."""
    left, top, right, bottom = map(int, box)
    seen = [(y, x) for y in range(top, bottom) for x in range(left, right) if share[y, x] > 0]
    weight = sum(float(share[y, x]) for y, x in seen) / ((bottom - top) * (right - left))
    ys, xs = zip(*seen, strict=True) if seen else ((0,), (0,))
    return [min(xs), min(ys), max(xs) + 1, max(ys) + 1], weight


WITHOUT_MAPS = [p for p in POLICIES if not getattr(p, "uses_saliency", False) and not isinstance(p, mw.ResizeMix)]


@pytest.mark.parametrize(
    "policy", [*WITHOUT_MAPS, mw.SaliencyMix(), mw.AttentiveMix(saliency=mw.FineGrained())], ids=repr
)
def test_boxes_against_brute_force(policy: mw.BatchPolicy) -> None:
    """Every box is clipped to what the plan shows of it, weighted by that, and dropped below the threshold."""
    low = torch.randint(0, 12, (6, 5, 2))
    boxes = torch.cat((low, low + torch.randint(1, 9, (6, 5, 2))), 2).clamp_max(20).float()
    for _ in range(3):
        try:
            plan = policy.draw(torch.rand(6, 3, 20, 20), torch.arange(6))
        except ValueError as error:  # a part of a composition
            pytest.skip(str(error))
        if plan.moves_pixels:
            pytest.skip("see test_boxes_are_scaled_with_their_image")
        shares = plan.share((20, 20))
        ids = torch.arange(6)[:, None, None].expand(6, 20, 20).contiguous()
        seen = plan.apply_segmentation(ids)
        for row, sources in enumerate(plan.sources.tolist()):
            for source in set(sources):
                share = shares[row, plan.sources[row] == source].sum(0)
                assert (share[seen[row] == source] >= 0.5 / len(set(sources))).all()
        for row, found in enumerate(mix_boxes(plan, list(boxes), min_visible=0.3)):
            expected = []
            for source in dict.fromkeys(plan.sources[row].tolist()):
                share = shares[row, plan.sources[row] == source].sum(0)
                for index in range(5):
                    box, weight = brute_force(boxes[source, index].tolist(), share)
                    if weight >= 0.3:
                        expected.append((source, index, box, weight))
            assert [e[:2] for e in expected] == list(zip(found.rows.tolist(), found.indices.tolist(), strict=True))
            assert [e[2] for e in expected] == found.boxes.int().tolist()
            torch.testing.assert_close(found.weights, torch.tensor([e[3] for e in expected]), atol=1e-5, rtol=0)


def test_boxes_are_scaled_with_their_image() -> None:
    """A pasted image that is scaled has its boxes where its pixels are; torn images are refused."""
    images = torch.zeros(2, 3, 32, 32)
    images[1, :, 8:24, 4:28] = 1.0
    boxes = [torch.zeros(0, 4), torch.tensor([[4.0, 8, 28, 24]])]
    for _ in range(10):
        plan = mw.ResizeMix(pairing=mw.Roll()).draw(images, torch.arange(2))
        shown = plan.apply(images)[0, 0].nonzero()
        (box,) = mix_boxes(plan, boxes, min_visible=0.0)[0].boxes
        top, left, bottom, right = *shown.min(0).values.tolist(), *(shown.max(0).values + 1).tolist()
        torch.testing.assert_close(box, torch.tensor([left, top, right, bottom]).float(), atol=1.0, rtol=0)
    torn = mw.PuzzleMix(saliency=mw.SpectralResidual()).draw(torch.rand(2, 3, 32, 32), torch.arange(2))
    if torn.moves_pixels:
        with pytest.raises(ValueError, match="cannot follow a PatchPlan"):
            mix_boxes(torn, boxes)


def test_boxes_of_a_mosaic() -> None:
    """Four images around one point: every box is clipped to the quarter that shows its image."""
    partner = torch.tensor([[1, 2, 3], [2, 3, 0], [3, 0, 1], [0, 1, 2]])
    quarters = torch.zeros(1, 4, 20, 20)
    for k, (rows, columns) in enumerate(((slice(8), slice(13)), (slice(8), slice(13, 20)))):
        quarters[0, k, rows, columns] = 1
        quarters[0, k + 2, slice(8, 20), columns] = 1
    plan = SharePlan(mw.Pairs(partner, torch.full((1,), 0.25), (20, 20)), quarters)
    boxes = [torch.tensor([[2.0 + k, 3, 18, 12 + k]]) for k in range(4)]
    for row, found in enumerate(mix_boxes(plan, boxes, min_visible=0.0)):
        expected = [
            (source, *brute_force(boxes[source][0].tolist(), plan.share((20, 20))[row, k]))
            for k, source in enumerate(plan.sources[row].tolist())
        ]
        assert [e[0] for e in expected] == found.rows.tolist()
        assert [e[1] for e in expected] == found.boxes.int().tolist()
        torch.testing.assert_close(found.weights, torch.tensor([e[2] for e in expected]))


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
