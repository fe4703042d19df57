"""Data sets as their authors publish them: small trees in that layout, and sentences about damaged ones."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("accelerate")
pytest.importorskip("torchvision")
from PIL import Image
from scipy.io import savemat

from mixwell.train.config import Config
from mixwell.train.data import SETS, load
from mixwell.train.errors import RunError

Expected = dict[str, list[tuple[str, str]]]  # by split: end of the path, and class


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines))


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def cub200(root: Path) -> Expected:
    root /= "CUB_200_2011"
    names = ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
    files = [f"{name}/{name[4:]}_{n}.jpg" for name in names for n in range(2)]
    text(root / "classes.txt", *(f"{n} {name}" for n, name in enumerate(names, 1)))
    text(root / "images.txt", *(f"{n} {file}" for n, file in enumerate(files, 1)))
    text(root / "image_class_labels.txt", "1 1", "2 1", "3 2", "4 2")
    text(root / "train_test_split.txt", "1 1", "2 0", "3 0", "4 1")
    for file in files:
        image(root / "images" / file)
    return {
        "train": [(files[0], names[0]), (files[3], names[1])],
        "test": [(files[1], names[0]), (files[2], names[1])],
    }


def tiny_imagenet(root: Path) -> Expected:
    root /= "tiny-imagenet-200"
    text(root / "wnids.txt", "n02124075", "n01443537")
    text(root / "words.txt", "n01443537\tgoldfish, Carassius auratus", "n02124075\tEgyptian cat")
    text(
        root / "val" / "val_annotations.txt",
        "val_0.JPEG\tn02124075\t0\t32\t44\t62",
        "val_1.JPEG\tn01443537\t1\t2\t3\t4",
    )
    for file in ("val/images/val_0.JPEG", "val/images/val_1.JPEG", "test/images/test_0.JPEG"):
        image(root / file)
    for name in ("n01443537", "n02124075"):
        image(root / "train" / name / "images" / f"{name}_0.JPEG")
        text(root / "train" / name / f"{name}_boxes.txt", f"{name}_0.JPEG\t0\t10\t63\t58")
    return {
        "train": [(f"train/{name}/images/{name}_0.JPEG", name) for name in ("n01443537", "n02124075")],
        "val": [("val/images/val_0.JPEG", "n02124075"), ("val/images/val_1.JPEG", "n01443537")],
    }


def aircraft(root: Path) -> Expected:
    root /= "fgvc-aircraft-2013b/data"
    text(root / "variants.txt", "707-320", "Model B200")
    text(root / "images_variant_train.txt", "1025794 707-320")
    text(root / "images_variant_val.txt", "0056978 Model B200")
    text(root / "images_variant_trainval.txt", "1025794 707-320", "0056978 Model B200")
    text(root / "images_variant_test.txt", "1514522 Model B200")
    for number in ("1025794", "0056978", "1514522"):
        image(root / "images" / f"{number}.jpg")
    return {
        "train": [("1025794.jpg", "707-320"), ("0056978.jpg", "Model B200")],
        "test": [("1514522.jpg", "Model B200")],
    }


def cars(root: Path) -> Expected:
    root /= "stanford_cars"
    classes = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]
    kind = [(name, "O") for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    (root / "devkit").mkdir(parents=True)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": np.array(classes, dtype=object)[None]})
    for split, path in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = [(1.0, 2.0, 3.0, 4.0, float(n), f"0000{n}.jpg") for n in (2, 1)]
        savemat(root / path, {"annotations": np.array([rows], dtype=kind)})
        for n in (1, 2):
            image(root / f"cars_{split}" / f"0000{n}.jpg")
    return {
        split: [(f"cars_{split}/00002.jpg", classes[1]), (f"cars_{split}/00001.jpg", classes[0])]
        for split in ("train", "test")
    }


def inaturalist(root: Path) -> Expected:
    categories = [{"id": 1, "name": "Apis mellifera"}, {"id": 0, "name": "Formica rufa"}]
    expected = {}
    for split in ("train", "val"):
        files = [f"{split}_val2018/Insecta/{n}/{split}{n}.jpg" for n in (0, 1)]
        expected[split] = [(files[1], "Apis mellifera"), (files[0], "Formica rufa")]
        values: dict[str, Any] = {
            "info": {"year": 2018}, "categories": categories,
            "images": [{"id": 7 + n, "file_name": files[n], "width": 8, "height": 8} for n in (0, 1)],
            "annotations": [{"id": n, "image_id": 7 + n, "category_id": n} for n in (1, 0)],
        }  # fmt: skip
        text(root / f"{split}2018.json", json.dumps(values))
        for file in files:
            image(root / file)
    return expected


def places205(root: Path) -> Expected:
    root /= "places205"
    files = {"train": ("a/abbey/gsun_0.jpg", "a/apartment_building/outdoor/1.jpg"), "val": ("a/abbey/gsun_2.jpg",)}
    labels = {"a/abbey": 0, "a/apartment_building/outdoor": 1}
    for split, paths in files.items():
        lines = [f"{path} {labels[path.rpartition('/')[0]]}" for path in reversed(paths)]
        text(root / "trainvalsplit_places205" / f"{split}_places205.csv", *lines)
        for path in paths:
            image(root / "data/vision/torralba/deeplearning/images256" / path)
    return {split: [(path, path.rpartition("/")[0]) for path in reversed(paths)] for split, paths in files.items()}


LAYOUTS = [cub200, tiny_imagenet, aircraft, cars, inaturalist, places205]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path: Path, layout: Callable[[Path], Expected]) -> None:
    expected = layout(tmp_path)
    config = Config(dataset=layout.__name__, data=str(tmp_path), bad_images="stop")
    data = load(config)
    second = next(name for name in expected if name != "train")
    for split, pairs in ((data.train, expected["train"]), (data.test, expected[second]), (data.val, expected[second])):
        assert [data.classes[label] for label in split.labels] == [name for _, name in pairs]
        assert all(str(path).endswith(end) for path, (end, _) in zip(split.images, pairs, strict=True))
    inside = next((path for path in tmp_path.iterdir() if path.is_dir()), tmp_path)
    if layout is not inaturalist:  # the folder itself may be named as well
        assert load(Config(dataset=layout.__name__, data=str(inside / "data" if layout is aircraft else inside)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_missing_files_are_sentences(tmp_path: Path, layout: Callable[[Path], Expected]) -> None:
    config = Config(dataset=layout.__name__, data=str(tmp_path))
    with pytest.raises(RunError, match=r"expected .* name the folder with --data"):
        load(config)
    layout(tmp_path)
    lists = sorted(path for path in tmp_path.rglob("*") if path.suffix in (".txt", ".json", ".mat", ".csv"))
    for path in lists:
        content = path.read_bytes()
        for damaged in (b"", b"1\n", b"\xff\xfe", content[: len(content) // 2]):
            path.write_bytes(damaged)
            with contextlib.suppress(RunError):  # a list of classes or an unused file may be cut short
                load(config)
            path.write_bytes(content)
    shutil.rmtree(next(path.parent for path in sorted(tmp_path.rglob("*.[jJ]*[gG]")) if "test_0" not in path.name))
    with pytest.raises(RunError, match=r"does not exist|no images in|cannot list the folder"):
        load(config)


def test_classes_out_of_range(tmp_path: Path) -> None:
    cub200(tmp_path)
    text(tmp_path / "CUB_200_2011" / "image_class_labels.txt", "1 1", "2 1", "3 2", "4 3")
    with pytest.raises(RunError, match=r"image 4 of .*images.txt has no class or no split"):
        load(Config(dataset="cub200", data=str(tmp_path)))
    aircraft(tmp_path)
    text(tmp_path / "fgvc-aircraft-2013b/data/images_variant_test.txt", "1514522 Model B20")
    with pytest.raises(
        RunError, match=r"image 1514522 of .* has an unknown class 'Model B20'; did you mean Model B200"
    ):
        load(Config(dataset="aircraft", data=str(tmp_path)))


def test_page_lists_all_data_sets() -> None:
    page = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `") and "--" not in line]
    assert sorted(", ".join(rows).replace("`", "").replace(" ", "").split(",")) == sorted(SETS)
