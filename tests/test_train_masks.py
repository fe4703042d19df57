"""Runs that train a mix block: its pictures, its file, and what goes wrong."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("accelerate")
from safetensors.torch import load_file

import mixwell
from learned import awake, read_card
from mixwell import LearnedMask, models
from mixwell.report import masks, samples, show
from mixwell.report import page as report_page
from mixwell.train.cli import main
from mixwell.train.config import Config
from mixwell.train.data import load
from mixwell.train.errors import RunError
from mixwell.train.loader import Loader, ProcessInfo, loaders
from mixwell.train.loop import Training

TINY = ["--subset", "60", "--batch_size", "20", "--image_size", "8", "--threads", "1", "--device", "cpu"]
METHODS = {
    "AutoMix": "AutoMix(block=PairAttention(lam_concat=True))",
    "SAMix": "SAMix(block=PairAttention(lam_multiply=1.0, pair=True, neck=True, dropout=0.1))",
    "AdAutoMix": "AdAutoMix(sources=3)",
}


def run(out: Path, *args: str, code: int = 0) -> Path:
    assert main(["train", "digits", "--epochs", "2", *TINY, "--out", str(out), *args]) == code
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a run of each method that trains a block."""
    folder = tmp_path_factory.mktemp("runs")
    return {name: run(folder / name, "--method", text) for name, text in METHODS.items()}


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a block that is awake and has looked at coloured images of 8 pixels."""
    path = tmp_path_factory.mktemp("blocks") / "mask.safetensors"
    torch.manual_seed(0)
    method = awake(mixwell.SAMix(models.mini_resnet(10, 3)))
    told = {"size": (8, 8), "normalization": mixwell.Normalization((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))}
    mixwell.save_mask(path, method.block, method.teacher.model, method.teacher.layer, "mini_resnet", **told)
    return path


def validation() -> tuple[Loader, list[str]]:
    config = Config(subset=60, image_size=8, batch_size=20)
    data = load(config)
    return loaders(config, data, ProcessInfo(torch.device("cpu")))[1], data.classes


@pytest.mark.parametrize("name", METHODS)
def test_a_picture_per_epoch(runs: dict[str, Path], name: str) -> None:
    """In the run and in TensorBoard, of the same images, in words too."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    sources = 3 if name == "AdAutoMix" else 2
    paths = sorted((runs[name] / "masks").iterdir())
    assert [path.name for path in paths] == ["epoch_001.png", "epoch_002.png"]
    pictures = []
    for path in paths:
        with Image.open(path) as image:
            pictures.append(np.asarray(image.convert("RGB")))
            told = image.info["Description"].splitlines()
        assert told[0] == f"masks after epoch {int(path.stem[-3:])}"
        assert [line[:9] for line in told[1:]] == ["lam 0.25,", "lam 0.50,", "lam 0.75,"] * masks.PAIRS
        assert told[1].count(",") == sources
    clean = [picture[:, : 24 + masks.SMALLEST] for picture in pictures]
    assert (clean[0][110:] == clean[1][110:]).all()  # below the title
    board = event_accumulator.EventAccumulator(str(runs[name] / "tensorboard"), {"images": 0}).Reload()
    assert [event.step for event in board.Images("masks")] == [1, 2]
    assert (board.Images("masks")[0].height, board.Images("masks")[0].width) == pictures[0].shape[:2]


def test_no_picture_without_a_block(tmp_path: Path, coloured: Path) -> None:
    """Not of plain training, nor of a block that is finished."""
    assert mixwell.SAMixPretrained(models.mini_resnet(10), LearnedMask(str(coloured))).mask_predictor() is None
    left = {path.name for path in run(tmp_path / "run").iterdir()}
    assert not left & {"masks", "mask.safetensors"}


def test_pictures_show_what_the_block_says() -> None:
    """Shares, mixed images and numbers agree with the block asked by hand."""
    loader, classes = validation()
    method = awake(mixwell.AutoMix(models.mini_resnet(10, 1), block=mixwell.PairAttention(lam_concat=True)))
    images = samples.from_split(loader.split, classes, 3, 8)
    found = masks.at_ratios(method.mask_predictor(), images, loader)
    firsts = torch.stack([loader.split.images[loader.split.labels == label][0] for label in range(3)]) / 255
    assert torch.equal(images.pixels, firsts)
    teacher, block, maps = copy.deepcopy(method.teacher.model).eval(), copy.deepcopy(method.block).eval(), []
    teacher.layer2.register_forward_hook(lambda module, args, output: maps.append(output))
    with torch.no_grad():
        teacher((firsts - 0.305) / 0.32)
        for ratio, row in zip(masks.RATIOS, found, strict=True):
            share = block(maps[0], maps[0].roll(-1, 0), ratio, (8, 8))
            for k, sample in enumerate(row):
                a, b = firsts[k], firsts[(k + 1) % 3]
                torch.testing.assert_close(sample.share, torch.cat((share[k], 1 - share[k])))
                torch.testing.assert_close(sample.mixed, share[k] * a + (1 - share[k]) * b)
                assert sample.lam == ratio and sample.names == (str(k), str((k + 1) % 3))
                assert sample.weights[0] == pytest.approx(float(share[k].mean()))
    assert float(found[0][0].share[0].std()) > 0.001
    _, told = masks.sheet("masks", found)
    low, high = (f"{float(value):.2f}"[1:] for value in found[0][0].share[0].aminmax())
    assert f"lam 0.25, {low}–{high}: 0 {found[0][0].weights[0]:.2f}, 1 {found[0][0].weights[1]:.2f}" in told


def test_several_sources() -> None:
    """What the anchor leaves is divided among the others, also where there are more sources than images to show."""
    loader, classes = validation()
    method = awake(mixwell.AdAutoMix(models.mini_resnet(10, 1), sources=5))
    images = samples.from_split(loader.split, classes, 5, 8)
    found = masks.at_ratios(method.mask_predictor(), images, loader)
    assert [[len(sample.share) for sample in row] for row in found] == [[5] * masks.PAIRS] * 3
    torch.testing.assert_close(found[0][0].share.sum(0), torch.ones(8, 8))
    assert found[0][1].names == ("1", "2", "3", "4", "0")


def state_of(module: torch.nn.Module) -> list[object]:
    flags = [(m.training, len(m._forward_hooks)) for m in module.modules()]
    grads = [None if p.grad is None else p.grad.tolist() for p in module.parameters()]
    return [flags, grads, [v.tolist() for v in module.state_dict().values()], torch.get_rng_state().tolist()]


def test_the_method_is_left_alone(tmp_path: Path) -> None:
    """Flags, statistics, gradients and the random state are as before, half-way through a step too."""
    loader, classes = validation()
    method = mixwell.SAMix(models.mini_resnet(10, 1)).train()
    method.block.value.eval()
    method(torch.randn(4, 1, 8, 8), torch.arange(4))["loss"].backward()
    before = state_of(method)
    masks.keep(tmp_path, 1, method.mask_predictor(), loader, classes)
    assert state_of(method) == before


@pytest.mark.parametrize("name", METHODS)
def test_training_is_the_same_without_pictures(
    runs: dict[str, Path], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every weight, the optimiser and all generators end bit-equal."""
    monkeypatch.setattr(Training, "draw", lambda self, epoch: None)
    other = run(tmp_path / "run", "--method", METHODS[name])
    assert not (other / "masks").exists()
    folders = [path / "checkpoint" / "epoch-00002" for path in (runs[name], other)]
    weights = [load_file(folder / "model.safetensors") for folder in folders]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0].keys() | weights[1].keys())
    states = [torch.load(folder / "state.pt", weights_only=True) for folder in folders]
    for part in ("optimizer", "random", "loader"):
        assert repr(states[0][part]) == repr(states[1][part])


def test_the_file_of_a_run_is_its_block(runs: dict[str, Path]) -> None:
    """The file holds teacher and block of the last step; the summary names the policy that reads it."""
    for name, path in runs.items():
        kept = load_file(path / "mask.safetensors")
        last = load_file(path / "checkpoint" / "epoch-00002" / "model.safetensors")
        for key, value in kept.items():
            part, _, rest = key.partition(".")
            assert torch.equal(value, last[f"{'teacher.model' if part == 'encoder' else part}.{rest}"]), (name, key)
        assert {key.partition(".")[0] for key in kept} == {"block", "encoder"}
        card = read_card(path / "mask.safetensors")
        assert (card["model"], card["size"], card["mean"], card["std"]) == ("mini_resnet", [8, 8], [0.305], [0.32])
        text = json.loads((path / "summary.json").read_text())["mask"]
        assert text == f"LearnedMask(path={str(path / 'mask.safetensors')!r})"
        assert repr(mixwell.parse(text)) == text


@pytest.mark.slow
def test_a_finished_block_mixes_for_another_student(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It trains under SUMix, the run is measured, and the report shows both."""
    policy = f"LearnedMask(path={str(runs['AutoMix'] / 'mask.safetensors')!r})"
    first = run(tmp_path / "first", "--policy", policy, "--method", "SUMix")
    again = run(tmp_path / "again", "--policy", policy, "--method", "SUMix")
    same = [load_file(path / "model.safetensors") for path in (first, again)]
    assert all(torch.equal(same[0][key], same[1][key]) for key in same[0])
    frozen = run(tmp_path / "frozen", "--policy", policy, "--method", "SAMixPretrained")
    for path in (first, frozen, runs["AutoMix"]):
        assert main(["eval", str(path)]) == 0
        assert "top-1" in capsys.readouterr().out
    page = tmp_path / "report.html"
    report_page.main([str(first), str(runs["AutoMix"]), "--out", str(page)])
    told = page.read_text()
    assert "Learned masks" in told and 'alt="masks learned by AutoMix(' in told and "No pictures" not in told


def test_show_draws_a_learned_mask(coloured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Any size of image is shown to the encoder as it was trained, and the picture holds what comes of that."""
    text = f"LearnedMask(path={str(coloured)!r})"
    show.main([text, "--size", "48", "--ratios", "0.3", "--count", "1", "--out", str(tmp_path / "grid.png")])
    with Image.open(tmp_path / "grid.png") as image:
        told = image.info["Description"]
    found = samples.photographs(48)
    seen = torch.nn.functional.interpolate(found.pixels, (8, 8), mode="bilinear", antialias=True)
    seen = (seen - torch.tensor([0.5, 0.4, 0.3]).view(-1, 1, 1)) / torch.tensor([0.2, 0.2, 0.1]).view(-1, 1, 1)
    predictor = LearnedMask(str(coloured))._trained.on(torch.device("cpu"))
    lam = torch.tensor([[0.3, 0.7]])
    share = predictor.share(seen, torch.tensor([[1], [0]]), lam.expand(2, 2), (48, 48))
    (sample,) = samples.at_ratios(LearnedMask(str(coloured)), found, [0.3], 0, 1)[0]
    assert f"lam 0.30: {sample}" in told
    torch.testing.assert_close(sample.share, share[0], atol=0.01, rtol=0)  # bytes are rounded
    assert float(sample.share[0].std()) > 0.01
    with pytest.raises(RunError, match=r"trained on images \(B, 1, H, W\), but got"):
        show.main([f"LearnedMask(path={grey(tmp_path)!r})", "--out", str(tmp_path / "grid.png")])


def grey(folder: Path) -> str:
    method = mixwell.AutoMix(models.mini_resnet(10, 1))
    mixwell.save_mask(folder / "grey", method.block, method.teacher.model, method.teacher.layer, "mini_resnet")
    return str(folder / "grey")


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--method", "AdAutoMix(sources=21)"], "AdAutoMix mixes 21 sources, but the batch has only 20 images"),
        (["--method", "AutoMix(layer='fc', head='both')"], "'fc' outputs (20, 10): name another layer"),
        (["--method", "AutoMix(layer='layer9')"], "no module 'layer9'; the nearest names are"),
        (["--method", "AutoMix(channels=5)"], "made for maps (B, 5, h, w), but got (20, 64, "),
        (
            ["--policy", "LearnedMask(path='none')"],
            "policy: The file none does not exist: expected",
        ),
    ],
)
def test_mistakes_are_told(args: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line each, and without a traceback."""
    run(tmp_path / "run", *args, code=2)
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


def test_a_network_without_a_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """A row of linear layers has no stages to choose from, and the sentence says how to name one."""
    layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    monkeypatch.setattr(models, "build", lambda *args: layers)
    run(tmp_path / "run", "--method", "AutoMix", code=2)
    said = capsys.readouterr().err
    assert "name the layer whose feature map is read" in said and said.count("\n") == 1


@pytest.mark.slow
def test_two_processes_draw_once(tmp_path: Path) -> None:
    """Only the main process draws, and nobody waits for it in vain; what only one of them reports has its own name."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = ["-m", "mixwell.train.cli", "train", "digits", "--epochs", "1", *TINY]
    command += ["--method", "SAMix(block_p=0.5)"]
    out = tmp_path / "run"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*launch, *command, "--out", str(out)], check=True, timeout=300, env=environment)
    assert [path.name for path in (out / "masks").iterdir()] == ["epoch_001.png"]
    assert (out / "mask.safetensors").is_file()
    means = json.loads((out / "metrics.jsonl").read_text())
    assert means["train_skipped"] == 0 and means.get("train_block_loss", 2) > 1


def test_newest_counts(tmp_path: Path) -> None:
    """The thousandth epoch comes after the 999th."""
    assert masks.newest(tmp_path) is None
    (tmp_path / "masks").mkdir()
    for name in ("epoch_998.png", "epoch_1000.png", "epoch_999.png"):
        (tmp_path / "masks" / name).touch()
    assert masks.newest(tmp_path) == tmp_path / "masks" / "epoch_1000.png"


def test_images_are_looked_at_as_trained(coloured: Path) -> None:
    """Bytes are normalised by what the file knows, so that both forms of a batch are mixed alike."""
    policy = LearnedMask(str(coloured), alpha=mixwell.Constant(0.4), pairing=mixwell.Roll())
    raw = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1)))

    def share(images: Tensor, **given: object) -> Tensor:
        return policy.draw(images, torch.arange(4), **given).share((8, 8))

    normalization = mixwell.Normalization((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    torch.testing.assert_close(share(raw), share((raw / 255 - mean) / std, normalization=normalization))
