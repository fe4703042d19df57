"""The play page: its lines repeat its pixels, hostile pictures get a sentence, and users do not see each other's."""

from __future__ import annotations

import base64
import io
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import mixwell as mw
from mixwell import models
from mixwell.report import controls, label_sheet, play, view
from mixwell.report.samples import Images
from mixwell.train.errors import RunError
from mixwell.train.network import Network

SIDE = 32


def png(colour: tuple[int, int, int] = (200, 30, 60), size: tuple[int, int] = (40, 30)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def sent(name: str, content: bytes, kind: str = "image/png") -> dict[str, str]:
    """Return a picture as the browser sends it."""
    return {"name": name, "data": f"data:{kind};base64,{base64.b64encode(content).decode()}"}


def network() -> Network:
    torch.manual_seed(0)
    model = models.build("mini_resnet", 10).eval().requires_grad_(False)
    return Network(model, mw.CIFAR10, SIDE, 3, [f"class {k}" for k in range(10)])


def shown(policy: str = "CutMix()", label: str = "PixelShare()", lam: float = 0.7, **given: Any) -> view.Look:
    return view.look(None, None, policy, label, lam, given.pop("seed", 3), SIDE, **given)


OFFERED = [name for name in mw.names("policy") if name not in ("LearnedMask", "OneOf", "Sometimes", "Switch")]


@pytest.mark.parametrize(
    "policy",
    [
        *(n for n in OFFERED if n != "MaskMix"),
        "MaskMix(patch=8)",
        "OneOf([MixUp(), CutMix(box='inside')])",
        "Sometimes(FMix())",
    ],
)
def test_the_line_gives_the_same_pixels(policy: str) -> None:
    """The Python line that the page shows computes the mixed image that the page shows, bit for bit."""
    found, made = shown(policy), {}
    exec(found.line, made)  # noqa: S102
    assert torch.equal(made["mixed"], found.sample.mixed)
    assert found.sample.mixed.shape == (3, SIDE, SIDE)


def test_the_line_with_pictures_and_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line names the files and the model; labels are what the model predicts."""
    monkeypatch.chdir(tmp_path)
    Path("it's.png").write_bytes(png())
    weights = network().model.state_dict()
    torch.save(weights, "net.pth")
    from mixwell.train.network import load

    loaded = load("net.pth", "mini_resnet", mw.CIFAR10, SIDE)
    given = view.Picture("it's.png", png()), None, "SaliencyMix(saliency=ClassActivation())", "SemanticShare()"
    source = "'net.pth', 'mini_resnet', mw.CIFAR10, 32"
    found, made = view.look(*given, 0.4, 1, SIDE, loaded, source), {}
    exec(found.line, made)  # noqa: S102
    assert torch.equal(made["mixed"], found.sample.mixed)
    assert [name for name, _ in found.evidence] == [f"evidence for {name}" for name in found.sample.names]
    assert sum(found.sample.weights) == pytest.approx(1, abs=1e-5)
    assert found.sample.weights != shown("MixUp()", lam=0.4).sample.weights


def test_label_policies_say_what_they_would_in_training() -> None:
    """Weights agree with those of a training step by hand; what this model cannot give is a sentence."""
    net = network()
    found = shown("CutMix()", "SemanticShare()", network=net)
    pixels = view.pair(side=SIDE)
    inputs, labels = net.inputs(pixels), net.predict(pixels)
    policy = mw.CutMix(alpha=mw.Constant(0.7), pairing=mw.Roll())
    mixed = policy(inputs, labels, generator=torch.Generator().manual_seed(3))
    expected = mw.SemanticShare()(mixed, mw.View(net.model(mixed.images), clean_logits=net.model(inputs)))
    assert found.labels["SemanticShare()"] == tuple(expected[0].tolist()) == found.sample.weights
    assert found.labels["RatioShare()"] == pytest.approx((0.7, 0.3))
    assert "attention" in str(found.labels["AttentionShare()"])
    assert isinstance(found.labels["ActivationShare()"], tuple)


def test_one_pass_for_all_label_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model sees the pictures once for their classes and once for all label policies, the mixed images once."""
    net, passes = network(), list[int]()
    net.model.register_forward_pre_hook(lambda _, given: passes.append(len(given[0])))
    monkeypatch.setattr(view, "evidence", lambda *_: [])
    shown("CutMix()", "SemanticShare()", network=net)
    assert passes == [2, 2, 2, 2]  # the last one is that of SaliencyShare's own saliency


def test_saliency_of_normalized_images_is_that_of_their_pixels() -> None:
    """The page, and ``mixwell show --label``, tell a saliency source in pixel values how the images were normalized."""
    net, label = network(), mw.labels.SaliencyShare(mw.FineGrained())
    found = shown("CutMix()", repr(label), network=net)
    pixels = view.pair(side=SIDE)
    policy = mw.CutMix(alpha=mw.Constant(0.7), pairing=mw.Roll())
    mixed = policy(pixels, net.predict(pixels), generator=torch.Generator().manual_seed(3))
    expected = label(mixed, mw.View(images=pixels, labels=net.predict(pixels)))
    assert found.sample.weights == pytest.approx(tuple(expected[0].tolist()), abs=1e-5)
    images = Images(pixels, torch.arange(2), ["a", "b"])
    drawn = label_sheet._by_label(mixed.plan, {"own": label}, net, images)["own"][0]
    torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-5)


def test_lam_is_the_share_of_the_anchor() -> None:
    """The slider moves the label from one picture to the other; at its ends one picture is left."""
    sizes = [shown("MixUp()", lam=lam).sample.weights[0] for lam in (0, 0.25, 0.5, 1)]
    assert sizes == pytest.approx([0, 0.25, 0.5, 1])
    assert torch.equal(shown("MixUp()", lam=1).sample.mixed, view.pair(side=SIDE)[0])


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def png_of_zeros(width: int, height: int) -> bytes:
    """Return a PNG of a few kilobytes that unpacks to any size."""
    pack, row = zlib.compressobj(9), bytes(1 + width)
    packed = b"".join(pack.compress(row) for _ in range(min(height, 8000))) + pack.flush()
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x00\x00\x00\x00"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    """Return a PNG whose comment unpacks to 200 MB."""
    return png()[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000))) + png()[33:]


HOSTILE: dict[str, tuple[bytes | Callable[[], bytes], str]] = {
    "huge.png": (lambda: png_of_zeros(50_000, 50_000), "pixels"),
    "large.png": (lambda: png_of_zeros(8_000, 7_000), "56000000|8000 x 7000 pixels"),
    "text.png": (text_bomb, "cannot read the image text.png"),
    "cut.png": (png(size=(300, 300))[:200], "cannot read the image cut.png"),
    "words.txt": (b"hello", "not in PNG or JPEG"),
    "empty.png": (b"", "empty"),
    "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>', "not in PNG or JPEG"),
    "archive.zip": (b"PK\x03\x04" + bytes(100), "not in PNG or JPEG"),
    "page.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not in PNG or JPEG"),
    "<img src=x onerror=alert(1)>": (b"x", "cannot read the image"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pictures_get_a_sentence(name: str) -> None:
    """What is not a picture of moderate size is refused quickly and in one sentence, which is escaped."""
    content, words = HOSTILE[name]
    content = content() if callable(content) else content
    began = time.monotonic()
    html, line = play.shown(None, "", sent(name, content), None, "CutMix()", "PixelShare()", 0.5, 0, SIDE)
    assert time.monotonic() - began < 20
    assert html.strip().startswith('<p class="mixwell-error" role="alert">') and line == ""
    assert "Traceback" not in html and "<img" not in html and html.strip().count("\n") == 0
    assert any(word in html for word in words.split("|"))


MALFORMED = ["junk", {"name": "a.png"}, {"name": "a", "data": "data:,%%%"}, {"name": 3, "data": 4}, ["a"], 7]
MALFORMED += [{"name": "a.png", "size": 2**40}, {"data": "x" * (2 * play.LARGEST_FILE)}, '{"name": ']


@pytest.mark.parametrize("value", MALFORMED)
def test_malformed_uploads_get_a_sentence(value: Any) -> None:
    """Values that the page itself would not send are refused as well."""
    html, _ = play.shown(None, "", value, None, "CutMix()", "PixelShare()", 0.5, 0, SIDE)
    assert 'role="alert"' in html


@pytest.mark.parametrize(
    ("policy", "label", "words"),
    [
        ("CutMix(alph=1)", "PixelShare()", "alph"),
        ("__import__('os')", "PixelShare()", "Unknown name"),
        ("PixelShare()", "PixelShare()", "expected a BatchPolicy"),
        ("CutMix()", "CutMix()", "expected a LabelPolicy"),
        ("LearnedMask(path='x')", "PixelShare()", "LearnedMask"),
        ("GridMix(cells=0)", "PixelShare()", "cells"),
    ],
)
def test_wrong_expressions_get_a_sentence(policy: str, label: str, words: str) -> None:
    """A typing error in an expression is explained."""
    html, _ = play.shown(None, "", None, None, policy, label, 0.5, 0, SIDE)
    assert 'role="alert"' in html and words in html


@pytest.mark.parametrize("name", [*OFFERED, *(n for n in mw.names("label") if n != "ObjectShare")])
def test_controls_are_made_from_types(name: str) -> None:
    """Every setting has a control of its type, and untouched controls give back the same policy."""
    pytest.importorskip("gradio")
    value = mw.parse(name)
    made = {setting: controls.control(value, setting) for setting in controls.settings(value)}
    assert controls.changed(value, {setting: part.value for setting, part in made.items()}) == repr(value)
    for setting, part in made.items():
        now, kind = getattr(value, setting), type(part).__name__
        if isinstance(now, bool):
            assert kind == "Checkbox"
        elif setting in ("scope", "box", "odd", "spectrum", "interpolation"):
            assert kind == "Dropdown" and len(part.choices) > 1


def test_a_control_changes_its_setting() -> None:
    """Words, numbers, tuples and objects arrive in the expression; wrong ones are explained."""
    value = mw.CutMix()
    given = controls.settings(value) | {"box": "inside", "aspect": "(0.5, 2.0)", "minmax": "None"}
    assert controls.changed(value, given) == "CutMix(box='inside', aspect=(0.5, 2.0))"
    assert controls.changed(mw.FMix(), controls.settings(mw.FMix()) | {"decay": 3, "soft": 0}) == "FMix()"
    with pytest.raises(RunError, match="aspect"):
        controls.changed(value, given | {"aspect": "(0, 1)"})
    with pytest.raises(RunError, match="cells is empty"):
        controls.changed(mw.GridMix(), {"cells": None})


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Gradio there is one sentence with the install line."""
    monkeypatch.setattr(play, "find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"pip install 'mixwell\[play\]'"):
        play.main([])
