"""Protocol B trains, resumes, and its tables agree with scipy."""

from __future__ import annotations

import importlib.util
import itertools
import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import minimize_scalar

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def program(name: str) -> ModuleType:
    """Import a program that is not part of the package."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


NAMES = ("few_images", "measures", "paired", "protocol_b", "protocol_table", "protocol_robustness")
few_images, measures, paired, protocol_b, protocol_table, protocol_robustness = map(program, NAMES)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Restore the number of threads, which the program sets."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    """Write 20 fine classes of random images in the format of CIFAR-100, one class to a superclass."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name, count in (("train", 120), ("test", 40)):
        labels = [index % 20 for index in range(count)]
        data = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        raw = {"data": data, "fine_labels": labels, "coarse_labels": [19 - label for label in labels]}
        (folder / name).write_bytes(pickle.dumps(raw))
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> list[dict[str, Any]]:
    """Run the program on tiny data and return the lines of its results file."""
    sizes = ("--epochs", "1", "--train-images", "40", "--held-out-images", "20", "--batch-size", "20")
    places = ("--data", str(folder), "--results", str(folder / "r.jsonl"), "--weights", str(folder / "weights"))
    monkeypatch.setattr(sys, "argv", ["protocol_b.py", *words, *sizes, *places])
    protocol_b.main()
    return paired.load(folder / "r.jsonl")


def test_runs_are_written_once_and_resumed(cifar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished run is skipped; a lost line is run again with the same result."""
    methods = ("NoMix()", "CutMix(alpha=1.0)", "SUMix(gamma=1.0) | CutMix(alpha=1.0)", "AutoMix()")
    lines = call(monkeypatch, cifar, *methods, "--seeds", "0", "1")
    assert [(line["method"], line["seed"]) for line in lines] == [(name, seed) for seed in (0, 1) for name in methods]
    assert call(monkeypatch, cifar, *methods, "--seeds", "0", "1") == lines
    results = cifar / "r.jsonl"
    results.write_text("".join(json.dumps(line) + "\n" for line in lines[1:]))
    again = call(monkeypatch, cifar, *methods, "--seeds", "0", "1")
    changing = {"seconds", "cpu_seconds", "date", "commit", "source", "changed", "command"}
    for old, new in ((lines[0], again[-1]), (lines[1], again[0])):
        assert {k: v for k, v in old.items() if k not in changing} == {
            k: v for k, v in new.items() if k not in changing
        }
    assert len({line["test_nll"] for line in lines}) == len(lines)  # no two runs are the same training


def test_a_run_under_way_elsewhere_is_skipped(cifar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two copies of the program do not run the same training."""
    import fcntl

    (line,) = call(monkeypatch, cifar, "NoMix()", "--seeds", "0")
    lock = next((cifar / "weights").glob("*.lock"))
    (cifar / "r.jsonl").write_text("")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert call(monkeypatch, cifar, "NoMix()", "--seeds", "0") == []
    assert call(monkeypatch, cifar, "NoMix()", "--seeds", "0")[0]["test_nll"] == line["test_nll"]


def test_robustness_is_measured_once(cifar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kept network gets one line, which the table reads together with its run."""
    call(monkeypatch, cifar, "NoMix()", "CutMix(alpha=1.0)", "--seeds", "0")
    places = ("--data", str(cifar), "--results", str(cifar / "r.jsonl"), "--weights", str(cifar / "weights"))
    monkeypatch.setattr(sys, "argv", ["x", *places])
    for _ in range(2):
        protocol_robustness.main()
        assert len((cifar / "r_robustness.jsonl").read_text().splitlines()) == 2
    records = paired.load(cifar / "r.jsonl")
    assert all(0 <= record["occlusion"] <= 100 and "test_nll" in record for record in records)
    assert "| plain |" in protocol_table.page(records).split("## Corruption")[1]


def test_changed_images_stay_images() -> None:
    """Every change differs from the image, stays in [0, 1], and the hole has 16 by 16 grey pixels."""
    images = torch.rand(4, 3, 32, 32)
    views = protocol_robustness.changed(images)
    for view in views.values():
        assert view.shape == images.shape and view.min() >= 0 and view.max() <= 1
    assert ((views["occlusion"] != images).any(1).sum((1, 2)) == 256).all()
    assert torch.allclose(views["pixelate"][:, :, 0, 0], images[:, :, :2, :2].mean((2, 3)))


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("CutMux()", "did you mean CutMix"),
        ("CutMix(alpha=-1)", "alpha"),
        ("SUMix()", "policy"),
        ("CutMix() | MixUp()", "not a method"),
    ],
)
def test_wrong_methods_are_refused(cifar: Path, monkeypatch: pytest.MonkeyPatch, method: str, sentence: str) -> None:
    """The program stops with one sentence before it reads images."""
    with pytest.raises(SystemExit, match=sentence):
        call(monkeypatch, cifar, method)


def test_missing_data_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that lacks the data stands in the message."""
    with pytest.raises(SystemExit, match=f"cifar-100-python, but {tmp_path}"):
        call(monkeypatch, tmp_path, "NoMix()")


def test_tuning_leaves_test_images_alone(cifar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tuning run has no test measure, and never stands among compared runs."""
    (line,) = call(monkeypatch, cifar, "NoMix()", "--seeds", "0", "--tune", "--lr", "0.05")
    assert not [name for name in line if name.startswith(("test", "scaled", "fgsm"))]
    with pytest.raises(ValueError, match="no run of NoMix"):
        paired.table_of([line])


def test_splits_are_balanced_disjoint_and_fixed() -> None:
    """Every class has its share of each split."""
    classes = torch.randint(0, 5, (500,), generator=torch.Generator().manual_seed(3))
    first, second = few_images.balanced(classes, [50, 100])
    assert classes[first].bincount().tolist() == [10] * 5 and classes[second].bincount().tolist() == [20] * 5
    assert not set(first.tolist()) & set(second.tolist())
    assert torch.equal(first, few_images.balanced(classes, [50, 100])[0])


def test_augmentation_is_a_shift_and_a_flip() -> None:
    """Every augmented image is one of the 162 that loops over shifts and flips make."""
    images = torch.rand(6, 3, 8, 8)
    out = few_images.augmented(images, torch.Generator().manual_seed(0), 4)
    padded = torch.nn.functional.pad(images, (4,) * 4)
    for image, result in zip(padded, out, strict=True):
        crops = [image[:, top : top + 8, left : left + 8] for top in range(9) for left in range(9)]
        assert any(torch.equal(result, crop) or torch.equal(result, crop.flip(2)) for crop in crops)


def test_temperature_agrees_with_scipy() -> None:
    """The search finds the minimum that scipy finds."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (400,), generator=generator)
    logits = 6 * (torch.nn.functional.one_hot(labels, 5) + torch.randn(400, 5, generator=generator)).double()

    def loss(temperature: float) -> float:
        return torch.nn.functional.cross_entropy(logits / temperature, labels).item()

    wanted = minimize_scalar(loss, bounds=(0.1, 100), method="bounded", options={"xatol": 1e-8}).x
    assert measures.temperature_of(logits, labels) == pytest.approx(wanted, rel=1e-4)


def record(method: str, seed: int, top1: float, epochs: int = 80) -> dict[str, Any]:
    """Return what a run leaves, with one number that matters."""
    names = ("test_top5", "test_nll", "test_ece", "scaled_nll", "scaled_ece", "fgsm_top1", "train_top1", "cpu_seconds")
    settings = {**protocol_b.asdict(protocol_b.Settings()), "epochs": epochs}
    versions = {"torch": "2", "python": "3"}
    return {
        **dict.fromkeys(names, 99.5), "method": method, "seed": seed, "tune": False, "settings": settings,
        "test_top1": top1, "source": "abc", "versions": versions,
    }  # fmt: skip


PLAIN = [40.1, 41.3, 39.8, 40.6, 40.2]
CUTMIX = [42.0, 42.9, 41.1, 42.8, 41.5]
OTHER = [41.9, 43.5, 40.9, 42.2, 42.4]


def records() -> list[dict[str, Any]]:
    """Return five runs of three methods, out of order."""
    rows = {"NoMix()": PLAIN, "CutMix(alpha=1.0)": CUTMIX, "MixUp(alpha=1.0)": OTHER}
    found = [record(name, seed, value) for name, values in rows.items() for seed, value in enumerate(values)]
    return found[::-1]


def test_table_agrees_with_scipy() -> None:
    """Means, intervals and p-values in the printed table are those of ``ttest_rel``."""
    text = "\n".join(protocol_table.accuracy_lines(paired.table_of(records())))
    tests = [stats.ttest_rel(CUTMIX, PLAIN), stats.ttest_rel(OTHER, PLAIN), stats.ttest_rel(OTHER, CUTMIX)]
    for test, pair in zip(tests, ((CUTMIX, PLAIN), (OTHER, PLAIN), (OTHER, CUTMIX)), strict=True):
        interval = test.confidence_interval(0.95)
        mean = np.mean(np.subtract(*pair))
        assert f"| {mean:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}] | {test.pvalue:.4f} |" in text
    adjusted = sorted(min(1, count * p) for count, p in zip((2, 1), sorted(t.pvalue for t in tests[:2]), strict=True))
    assert all(f"{p:.4f} | " in text for p in adjusted)
    assert f"| {np.mean(PLAIN):.2f} ± {np.std(PLAIN, ddof=1):.2f} |" in text


def test_effects_of_an_ablation() -> None:
    """Effects that were put into the accuracies of all twelve combinations come out."""
    effects = {"kappa=1.0": 0.5, "gamma=0.0": -2.0, "similarity='agreement'": 1.0, "similarity='released'": 4.0}
    found = records()
    for similarity, kappa, gamma in itertools.product(("", *[*effects][2:]), ("", "kappa=1.0"), ("", "gamma=0.0")):
        label = ", ".join(filter(None, (similarity, kappa)))
        method = f"SUMix({gamma}{', ' if gamma and label else ''}{f'label=SemanticShare({label})' if label else ''})"
        gain = sum(effects.get(part, 0.0) for part in (similarity, kappa, gamma))
        found += [record(f"{method} | CutMix(alpha=1.0)", seed, 40.0 + seed**2 + gain) for seed in range(5)]
    lines = protocol_table.ablation_lines(paired.table_of(found))[2:]
    assert [line.split(" | ")[2] for line in lines] == [f"{e:+.2f} [{e:+.2f}, {e:+.2f}]" for e in (0.5, 2.0, 1.0, 4.0)]
    assert [line.split(" | ")[4] for line in lines] == ["6", "6", "4", "4"]


def test_longer_trainings_of_equal_time() -> None:
    """A method is compared with longer trainings that took no more time than it, and with no others."""
    found = [run | {"cpu_seconds": 180.0} for run in records() if run["method"] == "MixUp(alpha=1.0)"]
    longer = {
        ("NoMix()", 240): (OTHER, 170.0),
        ("CutMix(alpha=1.0)", 240): (CUTMIX, 200.0),
        ("NoMix()", 80): (PLAIN, 60.0),
    }
    for (method, epochs), (values, seconds) in longer.items():
        found += [
            record(method, seed, value + 0.1 * seed, epochs) | {"cpu_seconds": seconds}
            for seed, value in enumerate(values)
        ]
    (line,) = protocol_table.equal_time_lines(paired.table_of(found))[2:]
    assert line.startswith("| `MixUp(alpha=1.0)` | 180 | plain, 240 epochs | 170 | -0.20 ")


def test_holm_agrees_with_its_definition() -> None:
    """The smallest p-value is multiplied by the count, the next by one less, and none falls below one before it."""
    assert paired.holm([0.03, 0.01, 0.04, 0.9]) == pytest.approx([0.09, 0.04, 0.09, 0.9])
    assert paired.holm([]) == []


def test_only_common_seeds_are_paired() -> None:
    """A missing run shortens the comparison; runs with fewer epochs are a row of their own against plain training."""
    table = paired.table_of([r for r in records() if (r["method"], r["seed"]) != ("MixUp(alpha=1.0)", 2)])
    plain, mixup = table.group("NoMix()"), table.group("MixUp(alpha=1.0)")
    keep = [0, 1, 3, 4]
    expected = stats.ttest_rel([OTHER[i] for i in keep], [PLAIN[i] for i in keep]).pvalue
    assert mixup.against(plain).p == pytest.approx(expected)
    longer = [record(name, seed, 50.0 + seed, 240) for name in ("NoMix()", "MixUp(alpha=1.0)") for seed in range(2)]
    for table, wanted in (
        (paired.table_of([*records(), *longer]), 240),
        (paired.table_of([*records(), longer[2]]), 80),
    ):
        assert table.reference("NoMix()", table.group("MixUp(alpha=1.0)", 240)).epochs == wanted
    short = paired.table_of([*records(), *(record("NoMix()", seed, 30.0, 20) for seed in range(4))])
    assert short.epochs == 80 and "plain, 20 epochs" in "\n".join(protocol_table.accuracy_lines(short))


def test_page_and_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The page holds every run and the gate; the verdict asks for five pairs, a gain and p < 0.01."""
    results = tmp_path / "r.jsonl"
    results.write_text("".join(json.dumps(line) + "\n" for line in records()))
    monkeypatch.setattr(sys, "argv", ["x", "--results", str(results), "--out", str(tmp_path / "results.md")])
    protocol_table.main()
    text = (tmp_path / "results.md").read_text()
    assert all(f"{value:.2f}" in text for value in (*PLAIN, *CUTMIX, *OTHER)) and "99.50 %, passed" in text
    monkeypatch.setattr(sys, "argv", ["x", "--results", str(results), "--row", "CutMix(alpha=1.0)"])
    capsys.readouterr()
    protocol_table.main()
    assert "\nEarns a row" in capsys.readouterr().out
    table = paired.table_of([r for r in records() if r["seed"]])
    assert "Does not earn" in protocol_table.verdict(table, "CutMix(alpha=1.0)")
    mixed = [*records(), {**record("FMix()", 0, 50.0), "settings": {"epochs": 80}}]
    with pytest.raises(ValueError, match="must share their settings"):
        paired.table_of(mixed)
