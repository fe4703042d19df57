"""A trained block as a policy: what it mixes, under which methods, and its file."""

from __future__ import annotations

import copy
import json
import sys
import tracemalloc
from pathlib import Path

import pytest
import torch
from torch import Tensor

from learned import Net, awake, read_card
from mixwell import CIFAR10, IMAGENET, BatchPolicy, Constant, LearnedMask, Mixing, Plan, Roll, SUMix, save_mask
from mixwell.methods.adautomix import AdAutoMix
from mixwell.methods.automix import AutoMix
from mixwell.methods.samix import SAMix, SAMixPretrained
from mixwell.mixers.mixblock import PairAttention
from mixwell.models import mini_resnet
from steps import data


@pytest.fixture
def block(tmp_path: Path) -> tuple[str, AutoMix]:
    """Return a saved block and the method that it comes from."""
    pytest.importorskip("safetensors")
    method = awake(AutoMix(mini_resnet(10), block=PairAttention(lam_concat=True)))
    path = tmp_path / "block.safetensors"
    save_mask(path, method.block, method.teacher.model, method.teacher.layer, model="mini_resnet")
    return str(path), method


def by_hand(method: AutoMix, x: Tensor, lam: float) -> Tensor:
    """Return the anchors' share, each with the row before as partner."""
    teacher = copy.deepcopy(method.teacher.model).eval()
    maps = []
    teacher.layer2.register_forward_hook(lambda module, args, output: maps.append(output))
    teacher(x)
    return method.block.eval()(maps[0], maps[0].roll(1, 0), lam, (32, 32))


@torch.no_grad()
def test_plan_is_the_block_s(block: tuple[str, AutoMix]) -> None:
    path, method = block
    x, y = data(size=32)
    mixed = LearnedMask(path, alpha=Constant(0.3), pairing=Roll())(x, y)
    share = by_hand(method, x, 0.3)
    torch.testing.assert_close(mixed.plan.share((32, 32))[:, :1], share)
    torch.testing.assert_close(mixed.images, share * x + (1 - share) * x.roll(1, 0))
    torch.testing.assert_close(mixed.weights[:, 0], share.mean((1, 2, 3)))
    assert (mixed.plan.lam == 0.3).all() and share.std() > 0.01


def test_is_an_ordinary_policy(block: tuple[str, AutoMix]) -> None:
    policy = LearnedMask(block[0], scope="sample")
    x, y = data(size=32)
    assert isinstance(policy, BatchPolicy) and repr(policy) == f"LearnedMask(scope='sample', path={block[0]!r})"
    first, again = (policy(x, y, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first.images, again.images)
    plan = Plan.from_state_dict(first.plan.state_dict())
    assert torch.equal(plan.apply(x), first.images)
    assert policy(x[:1], y[:1]).weights.tolist() == [[1.0, 0.0]]


def test_under_other_methods(block: tuple[str, AutoMix]) -> None:
    x, y = data(size=32)
    policy = LearnedMask(block[0])
    predictor = policy._trained.on(torch.device("cpu"))
    before = copy.deepcopy(predictor.encoder.state_dict())
    for method in (Mixing(Net(), policy), SUMix(Net(), policy, num_classes=10), SAMixPretrained(Net(), policy)):
        method.train()
        out = method(x, y)
        out["loss"].backward()
        assert all(p.grad is not None for p in method.parameters())
    assert all(torch.equal(value, before[name]) for name, value in predictor.encoder.state_dict().items())
    assert all(p.grad is None for m in (predictor.block, predictor.encoder) for p in m.parameters())


def test_pretrained_keeps_the_drawn_ratio(block: tuple[str, AutoMix]) -> None:
    x, y = data(size=32)
    policy = LearnedMask(block[0], alpha=Constant(0.3), pairing=Roll())
    method = SAMixPretrained(Net(), policy, head="both", clean_weight=0.0)
    out = method(x, y)
    logits = out["output"].log_softmax(1)
    each = 0.3 * logits.gather(1, y[:, None]) + 0.7 * logits.gather(1, y.roll(1)[:, None])
    torch.testing.assert_close(out["loss"], -each.mean())


def test_pure_ratios_mix_plainly(block: tuple[str, AutoMix]) -> None:
    x, y = data(size=32)
    for lam in (0.0, 0.05, 0.95, 1.0):
        mixed = LearnedMask(block[0], alpha=Constant(lam), pairing=Roll())(x, y)
        torch.testing.assert_close(mixed.images, lam * x + (1 - lam) * x.roll(1, 0))


def test_other_blocks(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    x, y = data(size=32)
    for index, method in enumerate((SAMix(mini_resnet(10)), AdAutoMix(mini_resnet(10), sources=2))):
        path = tmp_path / f"{index}.safetensors"
        save_mask(path, awake(method).block, method.teacher.model, method.teacher.layer, model="mini_resnet")
        mixed = LearnedMask(str(path))(x, y)
        assert mixed.weights.shape == (8, 2)
        assert read_card(path)["settings"] == vars(method.block.settings)


def test_own_encoder(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    method, path = awake(AutoMix(Net())), tmp_path / "block.safetensors"
    save_mask(path, method.block, method.teacher.model, method.teacher.layer)
    x, y = data(size=32)
    LearnedMask(path, encoder=Net())(x, y)
    with pytest.raises(ValueError, match="does not name its encoder"):
        LearnedMask(path)
    with pytest.raises(ValueError, match=r"encoder in .* does not fit ResNet"):
        LearnedMask(path, encoder=mini_resnet(10, 3))


def test_card_is_text_and_nothing_is_unpickled(block: tuple[str, AutoMix]) -> None:
    card = read_card(block[0])
    assert card["model"] == "mini_resnet" and card["layer"] == "layer2"


def test_files_that_do_not_fit(block: tuple[str, AutoMix], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights, card = load_file(block[0]), read_card(block[0])
    other = str(tmp_path / "other.safetensors")
    save_file(weights, other, {"mixwell": json.dumps(card | {"channels": 32})})
    with pytest.raises(ValueError, match=r"block in .* does not fit MixBlock"):
        LearnedMask(other)
    save_file(weights, other, {"mixwell": json.dumps(card | {"layer": "layer9"})})
    with pytest.raises(ValueError, match="layer9"):
        LearnedMask(other)
    for text in (None, "{not JSON", "[]", json.dumps({"format": 1})):
        save_file(weights, other, {"mixwell": text} if text else None)
        with pytest.raises(ValueError, match="holds no mix block: expected a file written by"):
            LearnedMask(other)
    for change in ({"format": 2}, {"block": "NewBlock"}):
        save_file(weights, other, {"mixwell": json.dumps(card | change)})
        with pytest.raises(
            ValueError, match=r"another version of mixwell: its format is . and its block \w+, but this"
        ):
            LearnedMask(other)
    Path(other).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="holds no mix block"):
        LearnedMask(other)
    with pytest.raises(ValueError, match="does not exist"):
        LearnedMask(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="needs the file of a trained block"):
        LearnedMask()(*data())
    with pytest.raises(ValueError, match="margin"):
        LearnedMask(block[0], margin=0.7)
    with pytest.raises(ValueError, match=r"trained on images \(B, 3, H, W\), but got \(8, 1, 16, 16\)"):
        LearnedMask(block[0])(data()[0][:, :1], data()[1])
    with pytest.raises(TypeError, match="block must be a mix block"):
        save_mask(other, block[1], block[1].teacher.model, "layer2")


def test_images_as_trained_on(tmp_path: Path) -> None:
    """uint8 images, images in [0, 1] and images normalized in another way give the same masks."""
    pytest.importorskip("safetensors")
    method, path = awake(AutoMix(Net())), str(tmp_path / "block.safetensors")
    save_mask(path, method.block, method.teacher.model, "layer2", normalization=IMAGENET)
    policy = LearnedMask(path, encoder=Net(), alpha=Constant(0.3), pairing=Roll())
    levels, labels = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8), torch.arange(4)
    pixels = levels.float() / 255
    with torch.no_grad():
        maps = copy.deepcopy(method.teacher).eval().features(IMAGENET.normalize(pixels))
        expected = method.block.eval()(maps, maps.roll(1, 0), 0.3, (32, 32))
    for images, normalization in (
        (levels, None),
        (pixels, None),
        (IMAGENET.normalize(pixels), IMAGENET),
        (CIFAR10.normalize(pixels), CIFAR10),
    ):
        plan = policy.draw(images, labels, normalization=normalization)
        torch.testing.assert_close(plan.share((32, 32))[:, :1], expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"LearnedMask computes in pixel values.*normalization="):
        policy(IMAGENET.normalize(pixels), labels)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": 10**10},
        {"channels": 10**10},
        {"in_chans": 10**10},
        {"settings": {"reduction": 1}},
        {"model": "wide_resnet28_8"},
        {"model": "timm/vit_tiny_patch16_224(img_size=1000000)"},
        {"model": "timm/vit_tiny_patch16_224(embed_dim=1000000)"},
        {"model": "timm/resnet18"},
    ],
    ids=str,
)
def test_sizes_are_checked_before_memory_is_allocated(
    block: tuple[str, AutoMix], tmp_path: Path, change: dict[str, object]
) -> None:
    from safetensors.torch import load_file, save_file

    other, card = str(tmp_path / "other.safetensors"), read_card(block[0])
    save_file(load_file(block[0]), other, {"mixwell": json.dumps(card | change)})
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"does not fit|cannot be built") as error:
        LearnedMask(other)
    assert "allocate" not in str(error.value)  # torch was not asked for the memory either
    assert tracemalloc.get_traced_memory()[1] < 2**28
    tracemalloc.stop()


@pytest.mark.parametrize(
    "change",
    [
        {"size": [10**9, 10**9]},
        {"size": [32]},
        {"size": [0, 32]},
        {"channels": "64"},
        {"channels": -1},
        {"classes": None},
        {"classes": 10.0},
        {"in_chans": True},
        {"layer": 3},
        {"settings": [1]},
        {"settings": {"unknown": 1}},
        {"settings": {"dropout": 2.0}},
        {"model": 7},
        {"mean": "a", "std": 1.0},
        {"mean": [0.5], "std": [0.0]},
        {"mean": 0.5},
    ],
    ids=str,
)
def test_cards_with_wrong_values(block: tuple[str, AutoMix], tmp_path: Path, change: dict[str, object]) -> None:
    from safetensors.torch import load_file, save_file

    other, card = str(tmp_path / "other.safetensors"), read_card(block[0])
    save_file(load_file(block[0]), other, {"mixwell": json.dumps(card | change)})
    with pytest.raises(ValueError, match=r"missing or out of range|cannot be built"):
        LearnedMask(other)


@pytest.mark.parametrize(
    "settings",
    [
        "checkpoint_path='x.pt'",
        "drop_rate=0.1, checkpoint_path='x.pt'",
        "checkpoint_path # img_size\n='x.pt'",
        "**{'checkpoint_path': 'x.pt'}",
        "\uff43heckpoint_path='x.pt'",
        "pretrained_cfg={'file': 'x.pt'}",
        "pretrained_cfg_overlay={'url': 'http://x'}",
        "cache_dir='x'",
        "not Python",
    ],
)
def test_a_card_makes_timm_read_no_file(block: tuple[str, AutoMix], tmp_path: Path, settings: str) -> None:
    from safetensors.torch import load_file, save_file

    other, card = str(tmp_path / "other.safetensors"), read_card(block[0])
    card["model"] = f"timm/resnet18({settings})"
    save_file(load_file(block[0]), other, {"mixwell": json.dumps(card)})
    with pytest.raises(ValueError, match=r"but a file may not set|cannot be built"):
        LearnedMask(other)


@pytest.mark.parametrize("setting", ["depth=5000", "depth=0x1fff", "embed_dim=4_097", "drop_rate=1e400"])
def test_numbers_in_a_card_are_bounded(block: tuple[str, AutoMix], tmp_path: Path, setting: str) -> None:
    """A large one would make timm build that many blocks, although on the meta device."""
    from safetensors.torch import load_file, save_file

    other, card = str(tmp_path / "other.safetensors"), read_card(block[0])
    card["model"] = f"timm/vit_tiny_patch16_224({setting})"
    save_file(load_file(block[0]), other, {"mixwell": json.dumps(card)})
    with pytest.raises(ValueError, match=r"cannot be built: a number in .* is above 4096"):
        LearnedMask(other)


def test_home_directory(block: tuple[str, AutoMix], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``~`` is the home directory where a mask is written and read; the repr keeps what was given."""
    monkeypatch.setenv("HOME", str(tmp_path))
    method = block[1]
    save_mask("~/mask.safetensors", method.block, method.teacher.model, method.teacher.layer, model="mini_resnet")
    policy = LearnedMask("~/mask.safetensors")
    assert (tmp_path / "mask.safetensors").is_file() and "'~/mask.safetensors'" in repr(policy)
    for path in ("~nobody-9/x", "~/y"):
        with pytest.raises(ValueError, match=f"The file {path} does not exist"):
            LearnedMask(path)


def test_without_safetensors(monkeypatch: pytest.MonkeyPatch, block: tuple[str, AutoMix]) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match="pip install safetensors"):
        LearnedMask(block[0])
