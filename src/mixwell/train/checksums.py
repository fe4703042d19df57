"""MD5 checksums of the files and archives that authors publish, which show whether a download is complete."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

MD5 = {
    "cifar10": {
        "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
        "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
        "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e",
        "cifar-10-batches-py/batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    },
    "cifar100": {
        "cifar-100-python/train": "16019d7e3df5f24257cddd939b257f8d",
        "cifar-100-python/test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "cifar-100-python/meta": "7973b15100ade9c7d40fb424638fde48",
        "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
    },
    "cub200": {"CUB_200_2011.tgz": "97eceeb196236b17998738112f37df78"},
    "inaturalist": {
        "train_val_images.tar.gz": "7c784ea5e424efaec655bd392f87301f",  # 2017
        "train_val2018.tar.gz": "b1c6952ce38f31868cc50ea72d066cc3",
        "train_val2019.tar.gz": "c60a6e2962c9b8ccbd458d12c8582644",
    },
}


def compare(dataset: str, root: Path) -> Iterator[str]:
    """Yield a line about each published file that lies in a folder.

    Args:
        dataset: Name of a data set; those without published checksums have no lines.
        root: Folder of the data set, or the one in it that the archive unpacks to.
    """
    for name, published in MD5.get(dataset, {}).items():
        path = next((path for path in (root / name, root / Path(name).name) if path.is_file()), None)
        if path is not None:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            same = (
                "as published" if found == published else f"differs from the published file, whose MD5 is {published}"
            )
            yield f"{path}: MD5 {found}, {same}"
