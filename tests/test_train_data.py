"""Data sets: splits by share, folders as people have them, and the fingerprint by which a run knows its data."""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")
from PIL import Image

from mixwell.train import data as sets
from mixwell.train import images
from mixwell.train.config import Config
from mixwell.train.dataset import DataSet, Split, match_classes
from mixwell.train.errors import RunError


def tree(root: Path, **counts: dict[str, int]) -> Path:
    """Write ``counts[split][class]`` images of one colour to a folder for each class of each split."""
    for split, classes in counts.items():
        for name, count in classes.items():
            (root / split / name).mkdir(parents=True)
            for n in range(count):
                Image.new("RGB", (8, 8), (n, n, n)).save(root / split / name / f"{n}.png")
    return root


def load(root: Path, only: str = "", **values: object) -> DataSet:
    return sets.load(Config(dataset="folder", data=str(root), **values), only)  # type: ignore[arg-type]


def complaint(root: Path, **values: object) -> str:
    with pytest.raises(RunError) as caught:
        load(root, **values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_stratified_takes_shares() -> None:
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)[torch.randperm(100)]
    for count in range(3, 101):
        chosen, others = sets.stratified(labels, count, 3)
        assert sorted([*chosen.tolist(), *others.tolist()]) == list(range(100)) and len(chosen) == count
        found = Counter(labels[chosen].tolist())
        assert len(found) == 3 and all(abs(found[c] - count * n / 100) <= 1 for c, n in enumerate((50, 30, 20)))
        assert torch.equal(chosen, sets.stratified(labels, count, 3)[0])
        assert set(sets.stratified(labels, max(count - 1, 3), 3)[0].tolist()) <= set(chosen.tolist())


@pytest.mark.parametrize("sizes", [(40, 3), (2, 2), (100, 2, 2), (7, 50, 3, 2), (1000, 2)])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.2, 0.5, 0.9])
def test_both_sides_have_every_class(sizes: tuple[int, ...], share: float) -> None:
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate(sizes)])
    count = min(max(round(share * len(labels)), len(sizes)), len(labels) - len(sizes))
    chosen, others = sets.stratified(labels, count, len(sizes), both=True)
    assert len(chosen) == count
    for rows in (chosen, others):
        assert labels[rows].bincount(minlength=len(sizes)).min() >= 1


def test_digits_subset_and_split() -> None:
    pytest.importorskip("sklearn")
    data = sets.load(Config(dataset="digits", subset=100, val_split=0.2, image_size=16))
    assert (len(data.train), len(data.val), len(data.test)) == (80, 20, 897)
    assert isinstance(data.train.images, torch.Tensor) and isinstance(data.test.images, torch.Tensor)
    assert data.train.images.shape == (80, 1, 16, 16) and data.train.images.dtype == torch.uint8
    assert Counter(data.val.labels.tolist()) == dict.fromkeys(range(10), 2)
    known = {image.numpy().tobytes() for image in data.train.images}
    assert not known & {image.numpy().tobytes() for split in (data.val, data.test) for image in split.images}
    pixels = data.test.images / 255
    normalized = data.normalization.normalize(pixels)
    assert abs(normalized.mean()) < 0.07 and abs(normalized.std() - 1) < 0.16
    with pytest.raises(RunError, match="subset asks for 901 training images, and there are 900"):
        sets.load(Config(dataset="digits", subset=901))
    with pytest.raises(RunError, match="subset 9 is smaller than the number of classes: use at least 10"):
        sets.load(Config(dataset="digits", subset=9))


def test_val_split_is_the_same_share_of_each_class(tmp_path: Path) -> None:
    root = tree(tmp_path, train={"common": 40, "rare": 3})
    data = load(root, val_split=0.2)
    assert data.train.counts(2) == [32, 2] and data.val.counts(2) == [8, 1]
    assert data.test is data.val  # there is nothing else
    assert not set(data.train.images) & set(data.val.images)
    assert load(root, val_split=0.2, subset=30).fingerprint()["train"] == [23, 1]
    (root / "train" / "rare" / "0.png").unlink()
    (root / "train" / "rare" / "1.png").unlink()
    assert "val_split needs two training images of each class, one for each side, and class 'rare' has one" in (
        complaint(root, val_split=0.2)
    )
    assert "--val_split 0.1" in complaint(root)


@pytest.mark.parametrize("there", [("val",), ("test",), ("val", "test")])
def test_which_split_serves_for_what(tmp_path: Path, there: tuple[str, ...]) -> None:
    sizes = {"train": 10, "val": 2, "test": 3}
    root = tree(tmp_path, **{name: dict.fromkeys("ab", sizes[name]) for name in ("train", *there)})
    data = load(root)
    assert (len(data.val), len(data.test)) == (2 * sizes[there[0]], 2 * sizes[there[-1]])
    assert (data.val is data.test) == (len(there) == 1)
    data = load(root, val_split=0.5)
    assert (len(data.train), len(data.val), len(data.test)) == (10, 10, 2 * sizes[there[-1]])
    for name in ("val", "test"):
        assert len(load(root, only=name, val_split=0.5).test) == len(getattr(data, name))


def test_one_split_is_enough_to_measure(tmp_path: Path) -> None:
    root = tree(tmp_path, test={"a": 2, "b": 3})
    assert load(root, only="test").test.counts(2) == [2, 3]
    assert "no training images in" in complaint(root)
    with pytest.raises(RunError) as caught:
        load(tree(tmp_path / "other", train={"a": 2, "b": 3}), only="test")
    assert "expected a split test or val" in str(caught.value) and "--" not in str(caught.value)


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "._resources", "__MACOSX", "@eaDir"])
def test_hidden_folders_are_not_classes(tmp_path: Path, name: str) -> None:
    root = tree(tmp_path, train={"a": 2, "b": 2, name: 1}, val={"a": 1, "b": 1})
    (root / "train" / "a" / name).mkdir()
    (root / "train" / "a" / name / "0.png").write_bytes(b"")
    (root / "train" / "b" / "._0.png").write_bytes(b"")
    (root / "train" / "b" / "labels.txt").write_text("")
    (root / "train" / "b" / "photo.heic").write_bytes(b"")
    (root / "val" / "0.png").write_bytes(b"")
    data = load(root)
    assert data.classes == ["a", "b"] and data.train.counts(2) == [2, 2]
    assert data.skipped == {"hidden": 3, ".txt": 1, ".heic": 1, "outside class folders": 1}


@pytest.mark.parametrize("wrapped", ["train", "train and val", "root", "root twice"])
def test_wrapped_folder(tmp_path: Path, wrapped: str) -> None:
    inner = {"root": "birds", "root twice": "birds/images"}.get(wrapped, "")
    root = tree(tmp_path / inner, train={"a": 2, "b": 2}, val={"a": 1, "b": 1})
    for split in ("train", "val") if wrapped == "train and val" else ("train",) if wrapped == "train" else ():
        (root / split).rename(tmp_path / "aside")
        (root / split).mkdir()
        (tmp_path / "aside").rename(root / split / "images")
    said = complaint(tmp_path)
    assert str(root if inner else root / "train" / "images") in said
    if inner:
        assert said.endswith(f"use --data {root}") and load(root).classes == ["a", "b"]


def test_one_class(tmp_path: Path) -> None:
    root = tree(tmp_path, train={"only": 3}, val={"only": 1})
    assert f"{root / 'train'} holds one class, 'only'" in complaint(root)


def test_folders_that_are_not_as_expected(tmp_path: Path) -> None:
    assert "no image folders in" in complaint(tmp_path / "none")
    said = complaint(tree(tmp_path, birds={"a": 1, "b": 1}) / "birds")
    assert "found the folders a, b; if these are classes, move them into a folder train" in said
    root = tree(tmp_path / "b", train={"a": 2, "b": 0}, val={"a": 1, "b": 1})
    assert f"no images in {root / 'train' / 'b'}: the folder is empty" in complaint(root)
    (root / "train" / "b" / "x.heic").write_bytes(b"")
    assert "skipped 1 file that is not an image: 1 .heic" in complaint(root)
    (tmp_path / "c" / "train").mkdir(parents=True)
    (tmp_path / "c" / "val").mkdir()
    assert "no class folders in" in complaint(tmp_path / "c")
    root = tree(tmp_path / "d", train={"ant": 1, "bee": 1}, val={"ant": 1, "wasp": 1})
    said = complaint(root)
    assert "must hold the same classes" in said and "class 'bee' is missing, class 'wasp' is new" in said
    with pytest.raises(RunError, match="no data set called 'cifar'; did you mean cifar10"):
        sets.load(Config(dataset="cifar"))


def test_linked_folders_are_read_once(tmp_path: Path) -> None:
    root = tree(tmp_path / "x", train={"a": 2, "b": 2}, val={"a": 1, "b": 1})
    (root / "train" / "a" / "again").symlink_to(root / "train" / "a", target_is_directory=True)
    (tmp_path / "far").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "far" / "z.png")
    (root / "train" / "b" / "far").symlink_to(tmp_path / "far", target_is_directory=True)
    assert load(root).train.counts(2) == [2, 3]


@pytest.mark.skipif(os.name != "posix", reason="needs links and names of any bytes")
def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    """They are files that cannot be read, and not a fault of the folder."""
    root = tree(tmp_path, train={"a": 2, "b": 2}, val={"a": 1, "b": 1})
    for name, target in (("self", "self"), ("there", "back"), ("back", "there"), ("gone", "nowhere")):
        (root / "train" / "a" / f"{name}.png").symlink_to(f"{target}.png")
    (root / "train" / "c").symlink_to("c")
    data = load(root)
    assert data.train.counts(2) == [6, 2] and data.skipped["outside class folders"] == 1
    with pytest.raises(RunError, match=r"cannot read the image .*self\.png: Too many levels of symbolic links"):
        images.read(root / "train" / "a" / "self.png")


@pytest.mark.skipif(sys.platform != "linux", reason="needs names of any bytes")
def test_one_spelling_of_class_names(tmp_path: Path) -> None:
    """Folders from macOS write accents as characters of their own; bytes that are not UTF-8 are escaped."""
    ours, theirs, undecoded = "M\u00fccke", "Mu\u0308cke", os.fsdecode(b"M\xfccke")
    for split, name in (("train", ours), ("val", theirs)):
        tree(tmp_path, **{split: {name: 2, "Zebra": 2, undecoded: 1}})
    data = load(tmp_path)
    assert data.classes == [r"M\udcfccke", ours, "Zebra"] and data.val.counts(3) == [1, 2, 2]
    split = Split(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1]))
    assert match_classes(split, [ours, "ant"], ["ant", theirs]).labels.tolist() == [1, 0]
    tree(tmp_path, train={theirs: 1})
    with pytest.raises(RunError, match=r"holds two folders of the class '.*', with another spelling: merge them"):
        load(tmp_path)


def test_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    tree(tmp_path / "birds", train={"a": 2, "b": 2}, val={"a": 1, "b": 1})
    assert sets.load(Config(dataset="folder", data="~/birds")).classes == ["a", "b"]
    with pytest.raises(RunError, match="cannot find the home directory in '~nobody_of_that_name/x'"):
        sets.load(Config(dataset="folder", data="~nobody_of_that_name/x"))


def test_fingerprint(tmp_path: Path) -> None:
    root = tree(tmp_path, train={"a": 2, "b": 3}, val={"a": 1, "b": 1})
    before = load(root).fingerprint()
    load(root).check_fingerprint(before)
    hashes = before.pop("hashes")
    assert before == {"classes": ["a", "b"], "train": [2, 3], "val": [1, 1], "test": [1, 1]}
    before["hashes"] = hashes
    moved = root.rename(root.with_name("elsewhere"))
    load(moved).check_fingerprint(before)
    moved.rename(root)

    def said() -> str:
        with pytest.raises(RunError, match="the data set has changed since the run began: ") as caught:
            load(root).check_fingerprint(before)
        return str(caught.value)

    for damaged in (None, 3, {}, {"classes": ["a", "b"]}, before | {"train": 3}):
        with pytest.raises(RunError, match="does not say which data set it was made with"):
            load(root).check_fingerprint(damaged)
    for split, other in (("train", "9.png"), ("val", "1.png")):
        image = root / split / "b" / "0.png"
        image.rename(image.with_name(other))
        assert f"the {split} images have other file names or labels, or another order" in said()
        image.with_name(other).rename(image)
    (root / "train" / "b" / "2.png").rename(root / "train" / "a" / "2.png")
    assert "class 'a' has 3 train images, 2 before" in said()
    for split in ("train", "val"):
        (root / split / "b").rename(root / split / "c")
    assert "class 'b' is missing, class 'c' is new" in said()


def test_classes_are_matched_by_name() -> None:
    names = ["ant", "bee", "cat", "dog"]
    split = Split(torch.zeros(6, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 2, 3, 3, 0]))
    for order in ([3, 1, 0, 2], [1, 2, 3, 0]):
        shuffled = [names[i] for i in order]
        found = match_classes(split, names, shuffled)
        assert [shuffled[i] for i in found.labels] == [names[i] for i in split.labels]
        dense = match_classes(replace(split, labels=torch.eye(4)[split.labels]), names, shuffled)
        assert torch.equal(dense.labels.argmax(1), found.labels)
    for theirs, words in [
        (["ant", "bee", "cat"], "class 'dog' is new"),
        (["ant", "bee", "cat", "dog", "eel"], "class 'eel' is missing"),
        (["ant", "bee", "eel", "fox"], "classes 'eel', 'fox' are missing, classes 'cat', 'dog' are new"),
        (["ant", "ant", "bee", "cat"], "class 'dog' is new"),
    ]:
        with pytest.raises(RunError, match=f"other classes than the model: {words}"):
            match_classes(split, names, theirs)


def test_real_birds(shared: Path) -> None:
    birds = shared / "data" / "ci" / "cub_ci"
    if not birds.is_dir():
        pytest.skip("no data/ci/cub_ci in the shared folder")
    data = load(birds)
    assert data.train.counts(4) == [6] * 4 and data.test.counts(4) == [4] * 4 and not data.skipped
    assert np.array(load(birds, val_split=0.5).val.counts(4)).tolist() == [3] * 4
