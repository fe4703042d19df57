"""The adaptor for training scripts that expect images and dense targets."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset, default_collate

from mixwell import IMAGENET, Constant, CutMix, MixTargets, MixUp, Reverse, SaliencyMix


def test_is_timms() -> None:
    """The same images and targets for the same ratio and pairs, also switched off."""
    theirs = pytest.importorskip("timm.data.mixup", reason="timm is not installed").Mixup
    images, labels = torch.rand(6, 3, 8, 8), torch.randint(5, (6,))
    mixup = theirs(mixup_alpha=1.0, num_classes=5, label_smoothing=0.1)
    mixup._params_per_batch = lambda: (0.3 if mixup.mixup_enabled else 1.0, False)
    ours = MixTargets(MixUp(alpha=Constant(0.3), pairing=Reverse()), num_classes=5, smoothing=0.1)
    for enabled in (True, False):
        mixup.mixup_enabled = ours.mixup_enabled = enabled
        for a, b in zip(ours(images, labels), mixup(images.clone(), labels), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_like_torchvisions() -> None:
    """In a collate function, with a last batch of odd size, and a loss of soft targets."""
    mix = MixTargets(CutMix(), num_classes=4)
    rows = TensorDataset(torch.rand(7, 3, 8, 8), torch.arange(7) % 4)
    loader = DataLoader(rows, batch_size=4, collate_fn=lambda rows: mix(*default_collate(rows)))
    for images, targets in loader:
        assert targets.shape == (len(images), 4) and targets.sum(1).allclose(torch.ones(len(images)))
        assert torch.nn.CrossEntropyLoss()(torch.zeros(len(images), 4), targets).item() == pytest.approx(
            1.3863, abs=1e-3
        )
    dense = mix(torch.rand(3, 3, 8, 8), torch.eye(4)[:3])[1]
    assert dense.shape == (3, 4)
    assert mix(torch.rand(1, 3, 8, 8), torch.tensor([2]))[1].tolist() == [[0, 0, 1, 0]]


def test_settings() -> None:
    """Normalization is passed on; wrong settings are refused when the object is created."""
    images = IMAGENET.normalize(torch.rand(4, 3, 8, 8))
    mix = MixTargets(SaliencyMix(), num_classes=4, normalization=IMAGENET)
    assert mix(images, torch.arange(4))[1].shape == (4, 4)
    assert repr(mix) == "MixTargets(SaliencyMix(), num_classes=4, smoothing=0.0)"
    for settings, message in (({"num_classes": 0}, "num_classes"), ({"num_classes": 2, "smoothing": 1.0}, "smoothing")):
        with pytest.raises(ValueError, match=message):
            MixTargets(CutMix(), **settings)
    with pytest.raises(TypeError, match="policy must be an object"):
        MixTargets(CutMix, num_classes=3)  # type: ignore[arg-type]
