"""Recipes against the tables of the specification, which are read here cell by cell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("accelerate")
pytest.importorskip("timm")
from mixwell import parse
from mixwell.methods import AlignMix
from mixwell.policy import BatchPolicy
from mixwell.train.recipes import COMBINED, RECIPES

NETWORKS = {
    "ResNet-18": "resnet18", "ResNet-34": "resnet34", "ResNet-50": "resnet50", "ResNet-101": "resnet101",
    "ResNeXt-50": "resnext50", "ResNeXt-101": "resnext101", "WRN-28-8": "wrn28_8", "DEiT-S(/16)": "deit_small",
    "DeiT-T": "deit_tiny", "DeiT-S": "deit_small", "DeiT-B": "deit_base", "Swin-T": "swin_tiny",
    "ConvNeXt-T": "convnext_tiny", "PVT-T": "pvt_tiny", "PVT-S": "pvt_small", "MogaNet-T": "moganet_tiny",
    "Eff-B0": "efficientnet_b0", "Mob.V2 1x": "mobilenet_v2",
}  # fmt: skip
SHORT = {"R18": "resnet18", "RX50": "resnext50", "WRN28-8": "wrn28_8", "DeiT-S": "deit_small", "Swin-T": "swin_tiny"}
DATA = {
    "CIFAR-100": "cifar100", "CIFAR-10": "cifar10", "ImageNet": "imagenet", "IN-1k": "imagenet",
    "Tiny": "tiny_imagenet", "CUB": "cub200", "Aircraft": "aircraft", "iNat2017": "inaturalist2017",
    "iNat2018": "inaturalist2018", "Places205": "places205",
}  # fmt: skip
EPOCHS = {"ImageNet-1k 300-ep": 300, "Tiny": 400, "CUB": 200, "iNat": 100, "Places": 100}
TRAININGS = {
    "Vanilla": "plain", "DeiT": "mixup_cutmix", "RSB": "mixup_cutmix", "AttentiveMix+": "attentivemix",
    "GridMix": "gridmixup", "Co-Mixup": "comixup",
}  # fmt: skip
# Not in mixwell; docs/recipes.md lists them.
ABSENT = re.compile("SuperMix|Grafting|TdAttenMix")
WITHOUT_ALPHA = ("resizemix", "smoothmix", "tokenmix", "smmix")  # their ratio has another distribution


@pytest.fixture(scope="module")
def spec(shared: Path) -> str:
    """The text of the specification."""
    file = shared / "spec" / "learned-methods.md"
    if not file.is_file():
        pytest.skip(f"no file {file}")
    return file.read_text(encoding="utf-8")


def section(spec: str, title: str) -> str:
    """Return the text under a heading."""
    level = title.split(maxsplit=1)[0]
    found = re.search(rf"^{re.escape(title)}.*?\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", spec, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def tables(text: str) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield each table with the line before it; the line of dashes is left out."""
    for before, table in re.findall(r"^(.*)\n\n?((?:\|.*\n)+)", text, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines()]
        yield before.strip("* "), [row for row in rows if not set("".join(row)) <= set("- ")]


def starting(names: dict[str, str] | dict[str, int], text: str) -> str | int | None:
    """Return the value of the first name that a text starts with."""
    return next((value for name, value in names.items() if text.startswith(name)), None)


def published(spec: str) -> Iterator[tuple[str, str, str, int, float]]:
    """Yield every accuracy of section 9: base, training, alpha, epochs and top-1."""
    for title, rows in tables(section(spec, "## 9. Complete published accuracy tables")):
        two = rows[1][0] in ("Epochs", "Epoch", "Settings", "Backbones")  # lines of headings
        for row in rows[1 + two :]:
            for column, second, cell in zip(rows[0][2:], rows[1][2:], row[2:], strict=True):
                if ABSENT.search(row[0] + column) or cell in ("", "-") or "Memory" in second or "Time" in second:
                    continue
                data = starting(DATA, column if rows[0][0] == "Datasets" else title)
                network = NETWORKS[second if rows[0][0] == "Datasets" else column]
                rsb = f"_rsb_{second.lower()}" if second in ("A2", "A3") else ""
                count = re.match(r"(\d+) epochs", second) if two else None
                epochs = int(count[1]) if count else {"A2": 300, "A3": 100}.get(second) or starting(EPOCHS, title)
                assert isinstance(epochs, int)
                training = TRAININGS.get(row[0], row[0].lower())
                yield f"{data}_{network}{rsb}", training, row[1], epochs, float(cell)


def test_all_published_accuracies_have_a_recipe(spec: str) -> None:
    """Section 9: all cells, but for methods and networks that do not exist here."""
    found = list(published(spec))
    missing = [
        (base, training, epochs, top1)
        for base, training, _, epochs, top1 in found
        if f"{base}_{training}" not in COMBINED
        or (epochs, top1) not in [result[:2] for result in COMBINED[f"{base}_{training}"].results]
    ]
    assert len(found) == 716 and not missing
    cells = {(f"{base}_{training}", epochs, top1) for base, training, _, epochs, top1 in found}
    for name, recipe in COMBINED.items():
        for result in recipe.results:
            assert "OpenMixup" not in result.source or (name, result.epochs, result.top1) in cells, name


def alphas(policy: BatchPolicy) -> list[float]:
    """Return the parameters of the Beta distributions of a policy, or of those that it chooses from."""
    return [vars(each)["alpha"] for each in getattr(policy, "policies", (policy,))]


def test_alphas(spec: str) -> None:
    """Section 9: the column alpha."""
    for base, training, alpha, *_ in published(spec):
        config = RECIPES[f"{base}_{training}"]()
        if training == "plain":
            assert (config.policy, alpha) == ("none", "-")
        elif training == "alignmix":
            assert (config.method, alpha) == (AlignMix.__name__, "2")  # MixUp(alpha=2.0) is its default
        elif training not in WITHOUT_ALPHA:
            policy = parse(config.policy)
            assert isinstance(policy, BatchPolicy)
            if (base, training) == ("imagenet_moganet_tiny", "mixup_cutmix"):
                alpha = "0.1, 1"  # of its released configuration, and of its publication
            assert alphas(policy) == [float(number) for number in alpha.split(",")], config.recipe


def test_settings_of_sumix(spec: str) -> None:
    """Section 1.6: learning rate, weight decay, batch, epochs, gamma and normalization, for every policy."""
    [(_, rows)] = [each for each in tables(section(spec, "### 1.6 Hyper-parameters")) if "lr" in each[1][0]]
    seen = 0
    for first, *cells in rows[1:]:
        data = starting(DATA, first)
        for network in re.findall(r"RX50|R18|WRN28-8", first):
            for policy in ("mixup", "cutmix", "fmix", "saliencymix", "resizemix", "puzzlemix"):
                config = RECIPES[f"{data}_{SHORT[network]}_{policy}_sumix"]()
                lr, decay, batch, epochs, gamma, is_norm = (cell.replace("*", "").split()[0] for cell in cells[:6])
                batch = {"64": "256"}.get(batch, batch)  # on four GPUs
                numbers = config.lr, config.weight_decay, config.batch_size, config.epochs
                assert numbers == (float(lr), float(decay), int(batch), int(epochs)), config.recipe
                method = {".5": "", "1.0": "gamma=1.0"}[gamma] + {"T": "", "F": "is_norm=False"}[is_norm]
                assert config.method == (f"SUMix({method})" if method else "SUMix")
                assert (config.optimizer, config.momentum, config.lr_min) == ("sgd", 0.9, 0)
                assert (config.loss, config.clip, config.ema, config.warmup) == ("", 0, 0, 0)
                seen += 1
    assert seen == 10 * 6


def test_results_of_sumix(spec: str) -> None:
    """Section 1.8: with SUMix and without."""
    seen = 0
    for _, rows in tables(section(spec, "### 1.8 Published results")):
        if "acc" in rows[0][1]:
            continue
        policy = ""
        for first, *cells in rows[1:]:
            policy = policy if first == "+ SUMix" else first.removesuffix(" / +SUMix").removesuffix(" /+SUMix").lower()
            for column, cell in zip(rows[0][1:], cells, strict=True):
                network = next(name for name in SHORT if name in column)
                base = f"{starting(DATA, column) or 'cifar100'}_{SHORT[network]}_{policy}"
                both = [float(number) for number in re.findall(r"\d\d\.\d\d", cell)]
                names = [base, f"{base}_sumix"] if len(both) == 2 else [base + "_sumix" * (first == "+ SUMix")]
                for name, top1 in zip(names, both, strict=True):
                    assert top1 in [result.top1 for result in COMBINED[name].results], name
                    seen += 1
    assert seen == 8 * 5 + 8 * 3 + 8 * 4


TRAININGS_OF_MERGEMIX = {**TRAININGS, "Vanilla": "plain", "GridMix": "gridmixup", "DeiT (Mixup+CutMix)": "mixup_cutmix"}
OF_MERGEMIX = {  # its ViT-B has the architecture of DeiT-B
    "DeiT-T": "deit_tiny", "DeiT-S": "deit_small", "ViT-S": "vit_small", "ViT-B": "deit_base", "ViT-L": "vit_large",
}  # fmt: skip


def of_mergemix(spec: str) -> Iterator[tuple[str, int, float]]:
    """Yield every accuracy of section 5.5 on CIFAR-100 and ImageNet: recipe, epochs and top-1."""
    text = section(spec, "### 5.5 Results")
    [columns, *rows] = next(tables(text))[1]
    longer = re.search(r"^600 ep \((.*?)\): (.*)\.$", text, re.MULTILINE)
    imagenet = re.search(r"^ImageNet-1k DeiT-S 300 ep: (.*) \(", text, re.MULTILINE)
    assert longer and imagenet and longer[1] == "/".join(columns[1:5])
    found = [("cifar100", 200, row) for row in rows]
    found += [("cifar100", 600, re.split("[ /]", part)) for part in longer[2].split("; ")]
    found += [("imagenet", 300, part.replace(" ", " - ").split()) for part in imagenet[1].split(", ")]
    for data, epochs, (method, *cells) in found:
        for column, cell in zip(columns[1:], cells, strict=False):
            if cell != "-" and not ABSENT.search(method):
                training = TRAININGS_OF_MERGEMIX.get(method, method.lower())
                second = "nolam_" if (column, method) == ("DeiT-S", "AdAutoMix") else ""
                yield f"{data}_{OF_MERGEMIX[column]}_{second}{training}", epochs, float(cell)


def test_results_of_mergemix(spec: str) -> None:
    """Section 5.5: all cells have a recipe; this source is named for those that no other publication has."""
    found = list(of_mergemix(spec))
    assert len(found) == 5 * 15 + 4 * 8 - 1 + 8
    for name, epochs, top1 in found:
        assert (epochs, top1) in [result[:2] for result in COMBINED[name].results], name
    for name, recipe in COMBINED.items():
        for epochs, top1, source in recipe.results:
            others = [each[:2] for each in recipe.results if each.source != source]
            assert source != "publication of MergeMix" or (name, epochs, top1) in found
            assert source != "publication of MergeMix" or (epochs, top1) not in others


# Sections 4.7, 2.11 and 3.4, what is not in section 9: epochs and top-1 by source.
OTHERS = """
README of AdAutoMix
cifar100_resnet18_adautomix 200 81.55 400 81.97 800 82.32
cifar100_resnext50_adautomix 200 84.40 400 84.05 800 84.22
cifar100_swin_tiny_adautomix 200 84.33 600 85.34
cifar100_convnext_tiny_adautomix 200 83.54
tiny_imagenet_resnet18_adautomix 400 69.19
tiny_imagenet_resnext50_adautomix 400 72.89
imagenet_resnet18_adautomix 100 70.86
imagenet_resnet34_adautomix 100 74.82
imagenet_resnet50_adautomix 100 78.04
imagenet_resnet101_adautomix 100 79.90
imagenet_resnext101_adautomix 100 81.10
cub200_resnet18_adautomix 200 80.88
cub200_resnet50_adautomix 200 84.57
aircraft_resnet18_adautomix 200 81.73
aircraft_resnext50_adautomix 200 87.16
cars_resnet18_adautomix 200 89.19
cars_resnext50_adautomix 200 91.59
cars_resnet18_automix 200 88.89
cars_resnext50_automix 200 91.38
cub200_resnet50_automix 200 83.88
cars_resnet18_samix 200 89.14
cars_resnext50_samix 200 90.46
cub200_resnet50_samix 200 84.10
"""


def test_results_of_other_sources() -> None:
    """Each accuracy is listed once, and no other comes from these sources."""
    expected, source = set[tuple[str, str, int, float]](), ""
    for line in OTHERS.strip().splitlines():
        if " of " in line:
            source = line
            continue
        name, *cells = line.split()
        expected |= {(name, source, int(e), float(v)) for e, v in zip(cells[::2], cells[1::2], strict=True)}
    found = {
        (name, result.source, result.epochs, result.top1)
        for name, recipe in COMBINED.items()
        for result in recipe.results
        if result.source not in ("documentation of OpenMixup", "README of SUMix", "publication of MergeMix")
    }
    assert found == expected
