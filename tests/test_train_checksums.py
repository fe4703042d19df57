"""Checksums of published files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

pytest.importorskip("accelerate")
pytest.importorskip("torchvision", reason="torchvision is not installed")
from torchvision import datasets
from torchvision.datasets import inaturalist

from mixwell.train import checksums
from mixwell.train.checksums import MD5, compare


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_checksums_are_those_of_torchvision(name: str) -> None:
    theirs = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    files = [*theirs.train_list, *theirs.test_list, (theirs.meta["filename"], theirs.meta["md5"])]
    expected = {f"{theirs.base_folder}/{file}": md5 for file, md5 in files} | {theirs.filename: theirs.tgz_md5}
    assert MD5[name] == expected
    archives = {Path(url).name: inaturalist.DATASET_MD5[year] for year, url in inaturalist.DATASET_URLS.items()}
    assert {file: archives[file] for file in MD5["inaturalist"]} == MD5["inaturalist"]


def test_files_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder of the data set or in the one that an archive unpacks to; missing files have no line."""
    right = hashlib.md5(b"pixels").hexdigest()
    monkeypatch.setattr(checksums, "MD5", {"birds": {"set/train": right, "set/test": right, "set.tgz": right}})
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train").write_bytes(b"pixels")
    (tmp_path / "set" / "test").write_bytes(b"pixel")
    wrong = hashlib.md5(b"pixel").hexdigest()
    for root in (tmp_path, tmp_path / "set"):
        assert list(compare("birds", root)) == [
            f"{tmp_path / 'set' / 'train'}: MD5 {right}, as published",
            f"{tmp_path / 'set' / 'test'}: MD5 {wrong}, differs from the published file, whose MD5 is {right}",
        ]
    assert list(compare("digits", tmp_path)) == []
