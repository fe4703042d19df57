"""``mixwell eval --suite`` on a small run: what it writes, what it skips, how it agrees with the measures alone."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("accelerate")
pytest.importorskip("matplotlib")
from PIL import Image

from mixwell.evaluation.corruptions import FUNCTIONS, STANDARD
from mixwell.train.cli import main
from mixwell.train.corrupted_folder import corruptions_in, severities
from mixwell.train.errors import RunError
from mixwell.train.runs import read_config
from mixwell.train.suite import Figure, Others, Subject, UnavailableError, chosen, subject
from mixwell.train.suite_parts import FULL, PARTS

TRAIN = ["train", "folder", "--model", "mini_resnet", "--image_size", "32", "--batch_size", "6", "--workers", "0",
         "--policy", "none", "--epochs", "4", "--lr", "0.05", "--device", "cpu", "--threads", "1", "--scale", "0.5",
         "--optimizer", "sgd", "--warmup", "0", "--ema", "0", "--augment", "", "--erasing", "0"]  # fmt: skip
COLOURS = {"ant": (220, 40, 40), "bee": (40, 220, 40), "cat": (40, 40, 220)}


def pictures(folder: Path, colours: dict[str, tuple[int, int, int]], count: int) -> Path:
    generator = np.random.default_rng(0)
    for name, colour in colours.items():
        (folder / name).mkdir(parents=True)
        for n in range(count):
            pixels = np.array(colour) + generator.integers(-60, 61, (32, 32, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{n}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on colours, with separate validation and test images, and a folder ``other`` beside it."""
    folder = tmp_path_factory.mktemp("suite")
    rows = ["file,split,x,y,w,h"]
    for split, count in (("train", 8), ("val", 3), ("test", 3)):
        pictures(folder / "data" / split, COLOURS, count)
        rows += [f"{split}/{name}/{n}.png,{split},{4 + n},8,{12 + n},14" for name in COLOURS for n in range(count)]
    (folder / "data" / "boxes.csv").write_text("\n".join(rows))
    pictures(folder / "other", {"grey": (120, 120, 120)}, 6)
    assert main([*TRAIN, "--data", str(folder / "data"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def measured(run: Path, *options: object) -> dict[str, dict[str, dict[str, object]]]:
    assert main(["eval", str(run), *map(str, options)]) == 0
    return json.loads((run / "eval.json").read_text())


def test_full(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = run.parent / "data" / "boxes.csv"
    record = measured(run, "--suite", "full", "--ood", run.parent / "other", "--boxes", boxes)
    said = capsys.readouterr()
    assert re.search(r"\d+ %  \d+:\d\d left", said.err) and "written: " in said.out
    assert record["suite"] == FULL and set(record["figures"]) == set(FULL) - {"corrupted"}
    assert set(record["skipped"]) == {"corrupted"} and record["images"] == 9
    assert list(record["seconds_by_part"]) == list(record["figures"])
    assert record["command"].startswith("mixwell eval ") and record["environment"]["torch"]
    for figures in record["figures"].values():
        assert all(
            set(figure) == {"value", "unit", "how"} and figure["how"].endswith(".") for figure in figures.values()
        )
    figures = record["figures"]
    assert set(FUNCTIONS) < set(figures["corruptions"])
    mean = np.mean([figures["corruptions"][name]["value"] for name in STANDARD])
    assert figures["corruptions"]["mean_error_standard"]["value"] == pytest.approx(mean)
    assert figures["occlusion"]["occlusion_mean"]["value"]["accuracy"][0] == figures["accuracy"]["top1"]["value"]
    assert figures["adversarial"]["pgd10_8"]["value"] <= figures["adversarial"]["fgsm_2"]["value"]
    assert "threshold chosen on 9 val images" in figures["localization"]["box_accuracy"]["how"]
    assert figures["localization"]["box_accuracy"]["value"] <= figures["localization"]["max_box_acc"]["value"] + 1e-9
    assert figures["label_error"]["ObjectShare()"]["value"] < 1e-6 < figures["label_error"]["PixelShare()"]["value"]
    assert "24 training and 9 test images" in figures["transfer"]["knn"]["how"]
    assert "9 other images" in figures["calibration"]["ece10_scaled"]["how"]
    for name in record["plots"]:
        assert (run / name).read_text().lstrip().startswith("<?xml")
    assert {"eval_reliability.svg", "eval_occlusion.svg", "eval_corruptions.svg"} <= set(record["plots"])
    first = (run / "eval.json").read_text()
    again = measured(run, "--suite", "accuracy,selective,ood,adversarial,transfer,localization,label_error",
                     "--ood", run.parent / "other", "--boxes", boxes)  # fmt: skip
    first = json.loads(first)["figures"]
    assert again["figures"] == {name: first[name] for name in again["figures"]}  # the same numbers every time


def test_parts_agree_with_plain_eval(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = measured(run, "--suite", "accuracy,calibration", "--json")["figures"]
    record = json.loads(capsys.readouterr().out)
    assert record["figures"] == figures and list(figures) == ["accuracy", "calibration"]
    assert main(["eval", str(run), "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert figures["accuracy"]["top1"]["value"] == pytest.approx(plain["top1"])
    assert figures["accuracy"]["nll"]["value"] == pytest.approx(plain["loss"], abs=1e-5)
    assert figures["calibration"]["ece10"]["value"] == pytest.approx(plain["ece"], abs=1e-6)


def test_published_folder_and_baseline(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An array whose severities are the right images and then ever more wrong ones has the errors that it should."""
    about = subject(read_config(run), run)
    images, labels = zip(*((np.asarray(Image.open(path)), label) for path, label in
                           zip(about.split.images, about.split.labels.tolist(), strict=True)), strict=True)  # fmt: skip
    stack = np.stack(images)
    np.save(tmp_path / "labels.npy", np.array(labels * 5))
    np.save(tmp_path / "fog.npy", np.concatenate([stack] * 4 + [np.roll(stack, 3, 0)]))
    assert corruptions_in(tmp_path) == ["fog"]
    parts = dict(severities(tmp_path, "fog", list(COLOURS)))
    assert list(parts) == [1, 2, 3, 4, 5] and torch.equal(parts[1].labels, about.split.labels)
    assert torch.equal(parts[5].images[3], torch.from_numpy(stack[0]).permute(2, 0, 1))
    command = ["--suite", "corrupted", "--corrupted", tmp_path]
    errors = measured(run, *command)["figures"]["corrupted"]["errors_by_severity"]["value"]["fog"]
    predicted = about.predictions[0].argmax(1)
    assert errors[0] == pytest.approx(100 * (predicted != about.split.labels).float().mean().item(), abs=1e-4)
    assert errors[4] == pytest.approx(100 * (predicted.roll(3) != about.split.labels).float().mean().item(), abs=1e-4)
    other = shutil.copytree(run, tmp_path / "baseline")
    record = json.loads((other / "eval.json").read_text())
    record["figures"]["corrupted"]["fog"]["value"] *= 2
    (other / "eval.json").write_text(json.dumps(record))
    found = measured(run, *command, "--baseline", other)["figures"]["corrupted"]
    assert found["mce"]["value"] == pytest.approx(50.0)
    (other / "eval.json").unlink()
    assert main(["eval", str(run), *map(str, command), "--baseline", str(other)]) == 2
    assert "--suite corrupted first" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fog", "labels", "words"),
    [
        (np.zeros((5, 8, 8, 3), np.float32), np.zeros(5, int), "must hold uint8 images"),
        (np.zeros((6, 8, 8, 3), np.uint8), np.zeros(6, int), "must hold uint8 images"),
        (np.zeros((5, 8, 8, 3), np.uint8), np.zeros(4, int), "must hold 1 or 5 labels"),
        (np.zeros((5, 8, 8, 3), np.uint8), np.full(5, 3), "labels up to 3"),
        (None, np.zeros(5, int), "cannot read"),
    ],
)
def test_damaged_folders(fog: np.ndarray | None, labels: np.ndarray, words: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected labels"):
        corruptions_in(tmp_path)
    np.save(tmp_path / "labels.npy", labels)
    (tmp_path / "fog.npy").write_bytes(b"x")
    if fog is not None:
        np.save(tmp_path / "fog.npy", fog)
    with pytest.raises(RunError, match=words):
        list(severities(tmp_path, "fog", list(COLOURS)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--suite", "acuracy"], "no suite called 'acuracy'; did you mean accuracy?"),
        (["--suite", "ood"], "add --ood DIR"),
        (["--suite", "ood", "--ood", "nowhere"], "no folder nowhere"),
        (["--ood", "x"], "--ood is used with --suite"),
        (["--suite", "accuracy,localization"], "add --boxes CSV"),
        (["--suite", "localization", "--boxes", "nowhere"], "no file nowhere, the value of --boxes"),
        (["--suite", "transfer", "--transfer", "nowhere"], "no folder nowhere, the value of --transfer"),
        (["--boxes", "x"], "--boxes is used with --suite"),
        (["--suite", "corruptions", "--baseline", "nowhere"], "has no corruptions: run mixwell eval nowhere"),
    ],
)
def test_mistakes_are_one_sentence(
    run: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["eval", str(run), *options]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert words in last and last.startswith("mixwell: ")


def test_nan_logits_become_null(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Subject, "logits_of", lambda self, batch: torch.full((len(batch), 3), torch.nan))
    figures = measured(run, "--suite", "accuracy,calibration,selective,occlusion")["figures"]
    assert figures["accuracy"]["top1"]["value"] == 0 and figures["accuracy"]["images_with_nan_or_inf"]["value"] == 9
    assert figures["accuracy"]["nll"]["value"] is None and figures["calibration"]["ece10"]["value"] is None


def test_several_labels_per_image(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = subject(read_config(run), run)
    many = Subject(nn.Identity(), about.split, None, about.config, about.data, about.device, about.precision)
    labels = torch.eye(3)[about.split.labels]
    many.split = type(about.split)(about.split.images, labels)
    many.__dict__["predictions"] = (4 * labels - 2, labels)
    assert dict(PARTS["accuracy"].measure(many))["map"].value == pytest.approx(100)
    for name in PARTS:
        if name != "accuracy":
            with pytest.raises(UnavailableError, match="images have several labels"):
                PARTS[name].check(many)


def test_choice() -> None:
    assert chosen("accuracy, autoattack,accuracy", list(PARTS), FULL) == ["accuracy", "autoattack"]


def test_page_runs_and_lists_every_part() -> None:
    page = (Path(__file__).parents[1] / "docs" / "evaluate.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == list(PARTS)
    given: dict[str, torch.Tensor] = {}
    exec(page.split("```python\n")[1].split("```")[0], given)  # noqa: S102  (our own page)
    assert given["attacked"].shape == given["foggy"].shape and given["error"].isfinite()


def test_published_folder_of_files(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Severities and classes as folders, as in ImageNet-C: the right images, then those of other classes."""
    names = list(COLOURS)
    for severity in range(1, 6):
        for index, name in enumerate(names):
            source = run.parent / "data" / "test" / names[(index + (severity > 3)) % 3]
            shutil.copytree(source, tmp_path / "snow" / str(severity) / name)
    found = measured(run, "--suite", "corrupted", "--corrupted", tmp_path)["figures"]["corrupted"]
    assert found["errors_by_severity"]["value"]["snow"] == [0, 0, 0, 100, 100]
    shutil.rmtree(tmp_path / "snow" / "2" / names[0])
    capsys.readouterr()
    assert main(["eval", str(run), "--suite", "corrupted", "--corrupted", str(tmp_path)]) == 2
    assert "class 'ant' is missing" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mini_resnet", "timm/vit_tiny_patch16_224(img_size=32, patch_size=8)"])
def test_grey_digits_without_held_out_images(model: str, tmp_path: Path) -> None:
    """One channel, no validation images, colour files for the other parts, a transformer."""
    pytest.importorskip("timm")
    out = tmp_path / "run"
    assert main(["train", "digits", "--model", model, "--image_size", "32", "--epochs", "1", "--subset", "20",
                 "--batch_size", "20", "--device", "cpu", "--threads", "1", "--policy", "none",
                 "--out", str(out)]) == 0  # fmt: skip
    about = subject(read_config(out), out)
    about.split = about.split.take(torch.arange(12))
    others = pictures(tmp_path / "other", {"red": (200, 0, 0), "blue": (0, 0, 200)}, 2)
    rows = ["file,x,y,w,h,class_index", *(f"{path.relative_to(others)},4,4,20,20,{n}"
                                          for n, path in enumerate(sorted(others.rglob("*.png"))))]  # fmt: skip
    (others / "boxes.csv").write_text("\n".join(rows))
    about.others = Others(ood=others, boxes=others / "boxes.csv")
    assert about.held is None
    for name in ("accuracy", "calibration", "selective", "ood", "adversarial", "occlusion", "transfer", "label_error"):
        figures = dict(PARTS[name].measure(about))
        assert all(figure.how.endswith(".") for figure in figures.values()), name
    assert "20 training and 12 test images" in figures_of(about, "transfer")["knn"].how
    if model == "mini_resnet":
        assert "the other half" in figures_of(about, "localization")["box_accuracy"].how


def figures_of(about: Subject, name: str) -> dict[str, Figure]:
    return dict(PARTS[name].measure(about))


def test_files_are_decoded_once(run: Path) -> None:
    """The images in memory are those of the files, bit for bit."""
    about = subject(read_config(run), run)
    from_files = torch.cat([batch for batch, _ in about._loaded(about.split)])
    assert isinstance(about.measured.images, torch.Tensor) and about.measured.images.dtype == torch.uint8
    torch.testing.assert_close(torch.cat([batch for batch, _, _ in about.batches()]), from_files, rtol=0, atol=1e-5)
    assert torch.equal(about.measured.labels, about.split.labels)
