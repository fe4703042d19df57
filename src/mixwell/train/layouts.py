"""Data sets as their authors publish them: images, and beside them text, JSON or MATLAB files with the labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mixwell.train import images
from mixwell.train.config import Config
from mixwell.train.dataset import SPLITS, Source
from mixwell.train.errors import RunError, first_line
from mixwell.train.files import parsed, text
from mixwell.train.listing import Entry, listed
from mixwell.train.paths import expand


def cub200(config: Config) -> Source:
    """Return CUB-200-2011, with the authors' split into training and test images.

    Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, 2011.
    """
    root = _root(config, "CUB_200_2011", "images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
    names = dict(_pairs(root / "classes.txt"))
    labels, training = (dict(_pairs(root / f"{name}.txt")) for name in ("image_class_labels", "train_test_split"))

    def entries() -> Iterator[Entry]:
        for number, file in _pairs(root / "images.txt"):
            where = f"image {number} of {root / 'images.txt'}"
            if number not in labels or number not in training or labels[number] not in names:
                raise RunError(f"{where} has no class or no split")
            split = "train" if training[number] == "1" else "test"
            yield Entry(split, root / "images" / file, [names[labels[number]]], where)

    return listed(config, entries(), list(names.values()), root)


def tiny_imagenet(config: Config) -> Source:
    """Return Tiny-ImageNet: 64-pixel images of 200 classes; its test images have no labels and are not used."""
    root = _root(config, "tiny-imagenet-200", "wnids.txt", "val/val_annotations.txt")
    classes = sorted(text(root / "wnids.txt").split())

    def entries() -> Iterator[Entry]:
        for name in classes:
            folder = root / "train" / name
            found = images.find(folder).paths
            if not found:
                raise RunError(f"no images in {folder}")
            yield from (Entry("train", path, [name], str(folder)) for path in found)
        for file, rest in _pairs(root / "val" / "val_annotations.txt"):  # then the box of the object
            where = f"image {file} of {root / 'val' / 'val_annotations.txt'}"
            yield Entry("val", root / "val" / "images" / file, [rest.split()[0]], where)

    return listed(config, entries(), classes, root)


def aircraft(config: Config) -> Source:
    """Return FGVC-Aircraft with its 100 variants; trained on the authors' training and validation images together.

    Maji et al., Fine-Grained Visual Classification of Aircraft, 2013.
    """
    files = [f"images_variant_{part}.txt" for part in ("trainval", "test")]
    root = _root(config, "fgvc-aircraft-2013b/data", "variants.txt", *files)
    classes = [line.strip() for line in text(root / "variants.txt").splitlines() if line.strip()]
    entries = (
        Entry(split, root / "images" / f"{number}.jpg", [name], f"image {number} of {root / file}")
        for split, file in zip(("train", "test"), files, strict=True)
        for number, name in _pairs(root / file)
    )
    return listed(config, entries, classes, root)


def cars(config: Config) -> Source:
    """Return Stanford Cars: 196 models of cars; the test annotations are those with labels.

    Krause et al., 3D Object Representations for Fine-Grained Categorization, 2013.
    """
    labels = "cars_test_annos_withlabels.mat"
    root = _root(config, "stanford_cars", "devkit/cars_meta.mat", "devkit/cars_train_annos.mat", labels)
    classes = [str(name) for name in _matlab(root / "devkit" / "cars_meta.mat", "class_names")]

    def entries() -> Iterator[Entry]:
        for split, path in (("train", root / "devkit" / "cars_train_annos.mat"), ("test", root / labels)):
            for row in _matlab(path, "annotations"):
                number, where = int(row["class"]), f"image {row['fname']} of {path}"
                if not 1 <= number <= len(classes):
                    raise RunError(f"{where} has the class {number}, expected 1 to {len(classes)}")
                yield Entry(split, root / f"cars_{split}" / str(row["fname"]), [classes[number - 1]], where)

    return listed(config, entries(), classes, root)


def inaturalist(config: Config) -> Source:
    """Return iNaturalist of any year, from train*.json and val*.json as the competition publishes them.

    Van Horn et al., The iNaturalist Species Classification and Detection Dataset, CVPR 2018.
    """
    root, found, names = expand(config.data or "data"), [], {}
    for split in SPLITS[:2]:
        paths = sorted(root.glob(f"{split}*.json"))
        if len(paths) != 1:
            raise RunError(f"expected one {split}*.json in {root}, found {len(paths)}: name the folder with --data")
        values = parsed(text(paths[0]), str(paths[0]))
        try:
            files = {image["id"]: root / image["file_name"] for image in values["images"]}
            names |= {each["id"]: str(each["name"]) for each in values["categories"]}
            found += [
                Entry(split, files[each["image_id"]], [names[each["category_id"]]], f"image {each['image_id']}")
                for each in values["annotations"]
            ]
        except (KeyError, TypeError) as error:
            raise RunError(f"{paths[0]} is not an annotation file of iNaturalist: {error!r}") from None
    return listed(config, found, [names[key] for key in sorted(names)], root)


def places205(config: Config) -> Source:
    """Return Places205: scenes of 205 classes, each named as the folder of its images, such as ``a/abbey``.

    Zhou et al., Learning Deep Features for Scene Recognition using Places Database, NIPS 2014.
    """
    lists = {split: f"trainvalsplit_places205/{split}_places205.csv" for split in SPLITS[:2]}
    root, found, names = _root(config, "places205", *lists.values()), [], {}
    images = root.joinpath("data", "vision", "torralba", "deeplearning", "images256")
    for split, file in lists.items():
        for path, label in _pairs(root / file):
            name, where = str(PurePosixPath(path).parent), f"image {path} of {root / file}"
            if not label.isdecimal() or names.setdefault(int(label), name) != name:
                raise RunError(f"{where} has the label {label!r}: expected one whole number for each folder of images")
            found.append(Entry(split, images / path, [name], where))
    return listed(config, found, [names[label] for label in sorted(names)], root)


def _root(config: Config, inner: str, *needed: str) -> Path:
    """Return the folder with the needed files: that of the config, or its usual name inside."""
    root = expand(config.data or "data")
    for folder in (root / inner, root):
        if all((folder / name).is_file() for name in needed):
            return folder
    raise RunError(
        f"no data set {config.dataset} in {root}: expected {', '.join(needed)} in it or in {root / inner}; name the "
        "folder with --data"
    )


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the first word of each line and the rest of it."""
    for number, line in enumerate(text(path).splitlines(), 1):
        words = line.split(maxsplit=1)
        if len(words) == 1:
            raise RunError(f"line {number} of {path} has one word, expected two or more: {line[:80]!r}")
        if words:
            yield words[0], words[1].strip()


def _matlab(path: Path, name: str) -> Sequence[Any]:
    from scipy.io import loadmat

    try:
        return loadmat(path, squeeze_me=True)[name].reshape(-1)
    except Exception as error:  # SciPy has one for each kind of damage
        reason = f"no entry {name!r}" if isinstance(error, KeyError) else first_line(error)
        raise RunError(f"cannot read {path}: {reason}") from None
