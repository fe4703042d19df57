"""Data sets in shards: every image once over all processes and workers, the same order again, and damaged shards."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("accelerate")
pytest.importorskip("torchvision")
from PIL import Image

from mixwell.train import data as sets
from mixwell.train.cli import main
from mixwell.train.config import Config
from mixwell.train.errors import RunError
from mixwell.train.image_files import ImageFiles
from mixwell.train.loader import Loader, ProcessInfo, StreamLoader, loaders
from mixwell.train.stream import Stream

COUNT, CLASSES = 23, ["ant", "bee", "wasp"]
PACKAGES = {"litdata": "litdata", "huggingface_stream": "datasets", "huggingface": "datasets"}


def png(number: int) -> bytes:
    """An image of one colour, which tells its number."""
    file = io.BytesIO()
    Image.new("RGB", (9, 7), (10 * number, 3, 200)).save(file, "png")
    return file.getvalue()


def webdataset(root: Path, split: str, shards: list[list[int]]) -> None:
    (root / split).mkdir(parents=True)
    for index, numbers in enumerate(shards):
        with tarfile.open(root / split / f"{index:03d}.tar", "w") as file:
            for number in numbers:
                for ending, content in (("png", png(number)), ("cls", str(number % 3).encode())):
                    entry = tarfile.TarInfo(f"{number:04d}.{ending}")
                    entry.size = len(content)
                    file.addfile(entry, io.BytesIO(content))
    (root / "classnames.txt").write_text("".join(f"{name}\n" for name in CLASSES))


def litdata(root: Path, split: str, shards: list[list[int]]) -> None:
    from litdata.streaming.writer import BinaryWriter

    (root / split).mkdir(parents=True)
    writer = BinaryWriter(str(root / split), chunk_size=len(shards[0]))
    for row, number in enumerate(number for numbers in shards for number in numbers):
        writer[row] = {"image": Image.open(io.BytesIO(png(number))), "label": number % 3}
    writer.done()
    writer.merge()
    (root / "classnames.txt").write_text("".join(f"{name}\n" for name in CLASSES))


def table(numbers: Iterable[int]) -> Any:
    import datasets

    numbers = list(numbers)
    rows = {"image": [{"bytes": png(n), "path": None} for n in numbers], "label": [n % 3 for n in numbers]}
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)}
    return datasets.Dataset.from_dict(rows, datasets.Features(features))


def huggingface_stream(root: Path, split: str, shards: list[list[int]]) -> None:
    (root / "data").mkdir(parents=True, exist_ok=True)
    name = {"val": "validation"}.get(split, split)
    for index, numbers in enumerate(shards):
        table(numbers).to_parquet(root / "data" / f"{name}-{index:05d}-of-{len(shards):05d}.parquet")


FORMATS = [webdataset, litdata, huggingface_stream]
Format = Callable[[Path, str, list[list[int]]], None]


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may ask the network, and none leaves anything in the home folder."""
    for name, value in {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    if "datasets" in sys.modules:
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def config(make: Format, root: Path, **values: Any) -> Config:
    if package := PACKAGES.get(make.__name__):
        pytest.importorskip(package, reason=f"{package} is not installed")
    numbers = list(range(COUNT))
    shards = [numbers[start : start + 6] for start in range(0, COUNT, 6)]
    make(root / "set", "train", shards)
    make(root / "set", "val", shards)
    given = {"image_size": 6, "batch_size": 5, "scale": 0.9, "flip": True, "eval_crop": 1.0, **values}
    return Config(dataset=make.__name__, data=str(root / "set"), **given)


def pair(config: Config, data: sets.DataSet, rank: int = 0, world: int = 1) -> tuple[Loader, Loader]:
    train, val, _ = loaders(config, data, ProcessInfo(torch.device("cpu"), rank, world))
    return train, val


def numbers(loader: Loader, data: sets.DataSet) -> list[list[int]]:
    """Return the numbers of the images of every batch, after a look at their labels."""
    found = []
    for images, labels in loader:
        colours = data.normalization.pixels(images)[:, 0] * 25.5
        assert (colours.flatten(1).std(1) < 1e-3).all()
        found.append(colours.mean((1, 2)).round().int().tolist())
        assert labels.tolist() == [number % 3 for number in found[-1]]
    return found


def flat(batches: list[list[int]]) -> list[int]:
    return list(chain.from_iterable(batches))


@pytest.mark.parametrize("make", FORMATS)
def test_every_image_once(tmp_path: Path, make: Format) -> None:
    """However many processes and workers there are; four shards cannot be dealt evenly to three processes."""
    settings = config(make, tmp_path)
    data = sets.load(settings)
    assert (data.classes, len(data.train), len(data.val)) == (CLASSES, COUNT, COUNT) and data.test is data.val
    (tmp_path / "set").rename(tmp_path / "moved")
    settings = replace(settings, data=str(tmp_path / "moved"))
    before, data = data, sets.load(settings)
    data.check_fingerprint(before.fingerprint())
    for world, workers in ((1, 0), (1, 2), (2, 2), (3, 0), (4, 1)):
        seen: Counter[int] = Counter()
        for rank in range(world):
            for batch in numbers(pair(replace(settings, workers=workers, batch_size=12), data, rank, world)[1], data):
                seen.update(batch)
        assert seen == Counter(range(COUNT)), (world, workers)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", FORMATS)
def test_epochs(tmp_path: Path, make: Format, workers: int) -> None:
    """An epoch has batches of one size and no image twice; its order follows from the seed and the epoch."""
    settings = config(make, tmp_path, workers=workers)
    data = sets.load(settings)
    train, _ = pair(settings, data)
    assert isinstance(train, StreamLoader) and len(train) == 4
    assert train.generator is not None
    first, state = numbers(train, data), train.generator.get_state()
    second = numbers(train, data)
    for epoch in (first, second):
        assert [len(batch) for batch in epoch] == [5] * 4
        assert len({number for batch in epoch for number in batch}) == 20
    assert first != second and sorted(flat(first)) != flat(first)
    again, _ = pair(settings, data)
    assert again.generator is not None
    assert numbers(again, data) == first
    again.generator.set_state(state)  # as a resumed run does
    assert numbers(again, data) == second
    assert numbers(pair(replace(settings, seed=1), data)[0], data) != first


@pytest.mark.parametrize("make", [webdataset, *(pytest.param(make, marks=pytest.mark.slow) for make in FORMATS[1:])])
def test_processes_share_an_epoch(tmp_path: Path, make: Format) -> None:
    settings = config(make, tmp_path, batch_size=8, accumulate=2)
    data = sets.load(settings)
    both = [pair(settings, data, rank, 2)[0] for rank in range(2)]
    for _ in range(2):  # the second epoch has one seed for both as well
        found = [numbers(loader, data) for loader in both]
        assert [[len(batch) for batch in part] for part in found] == [[2] * 4] * 2
        assert len({number for part in found for batch in part for number in batch}) == 16


def test_short_part_begins_again(tmp_path: Path) -> None:
    """A process whose shard has 3 images for 10 reads shards of another order, as all processes take the same steps."""
    for split in ("train", "val"):
        webdataset(tmp_path, split, [[0, 1, 2], list(range(3, 20))])
    settings = Config(dataset="webdataset", data=str(tmp_path), image_size=6, batch_size=20, scale=1.0)
    data = sets.load(settings)
    parts = [flat(numbers(pair(settings, data, rank, 2)[0], data)) for rank in range(2)]
    assert [len(part) for part in parts] == [10, 10]
    assert min(len(set(part)) for part in parts) >= 3 and len(set(chain(*parts))) >= 10


def test_number_of_images_may_be_stated(tmp_path: Path) -> None:
    settings = config(webdataset, tmp_path)
    info = {"splits": {"train": {"num_samples": 11}, "validation": {"num_samples": 7}}}
    path = tmp_path / "set" / "_info.json"
    path.write_text(json.dumps(info))
    data = sets.load(settings)
    assert (len(data.train), len(data.val)) == (11, 7)
    path.write_text('{"splits": {"train": 3}}')
    with pytest.raises(RunError, match=r"_info\.json does not have the number of images of each split"):
        sets.load(settings)


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_shards_are_sentences(tmp_path: Path, workers: int) -> None:
    settings = config(webdataset, tmp_path, workers=workers)
    path = tmp_path / "set" / "train" / "001.tar"
    whole, data = path.read_bytes(), sets.load(settings)
    for content, sentence in (
        (whole[:4000], r"cannot read the image .*001\.tar: unexpected end of data"),
        (whole.replace(b"\x89PNG", b"\x89PMG"), r"cannot read the image 00.. in .*001\.tar: it is empty, damaged"),
        (whole.replace(b"0008.cls", b"0008.txt"), r"image 0008 in .*: its label must be from 0 to 2, but is -1"),
        (whole.replace(b"0008.png", b"0008.mp3"), r"cannot read the image 0008 in .*: it is empty"),
    ):
        path.write_bytes(_checksums(content))
        with pytest.raises(RunError, match=sentence) as caught:
            list(pair(settings, data)[0])
        assert "\n" not in str(caught.value)
        train, _ = pair(replace(settings, bad_images="skip"), data)
        assert [len(batch) for batch in numbers(train, data)] == [5] * 4
    for shard in path.parent.iterdir():
        shard.write_bytes(b"")
    with pytest.raises(RunError, match="none of the 23 training images can be read"):
        list(pair(replace(settings, bad_images="skip"), data)[0])


def _checksums(content: bytes) -> bytes:
    """Correct the checksums of the headers of a tar file after a change of names."""
    out = bytearray(content)
    for start in range(0, len(out) - 511, 512):
        header = out[start : start + 512]
        if header[257:262] == b"ustar":
            header[148:156] = b" " * 8
            out[start + 148 : start + 156] = f"{sum(header):06o}\0 ".encode()
    return bytes(out)


def test_what_a_stream_cannot_do(tmp_path: Path) -> None:
    settings = config(webdataset, tmp_path)
    for changes in ({"val_split": 0.2}, {"subset": 9}):
        with pytest.raises(RunError, match=r"images of webdataset are a stream and cannot be chosen"):
            sets.load(replace(settings, **changes))
    data = sets.load(settings)
    assert isinstance(data.train, Stream)
    with pytest.raises(RunError, match=r"cannot be chosen: use a data set of another kind"):
        data.train.take(torch.tensor([0]))
    for path in (tmp_path / "set" / "train").glob("*.tar"):
        path.write_bytes(b"no tar")
    with pytest.raises(RunError, match=r"cannot read .*000\.tar: "):
        sets.load(settings)
    (tmp_path / "set" / "classnames.txt").write_text("ant\n")
    with pytest.raises(RunError, match=r"expected the names of the classes in .*classnames\.txt, one a line"):
        sets.load(settings)


@pytest.mark.parametrize(("dataset", "package"), PACKAGES.items())
def test_missing_package_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RunError, match=rf"--dataset {dataset} needs the package {package}: pip install 'mixwell\["):
        sets.load(Config(dataset=dataset, data=str(tmp_path)))


@pytest.mark.parametrize("dataset", ["webdataset", *PACKAGES])
def test_empty_folder_is_a_sentence(tmp_path: Path, dataset: str) -> None:
    if package := PACKAGES.get(dataset):
        pytest.importorskip(package, reason=f"{package} is not installed")
    with pytest.raises(RunError, match=r"no tar files in|no chunks of litdata in|cannot load the data set") as caught:
        sets.load(Config(dataset=dataset, data=str(tmp_path)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("saved", ["to_disk", "parquet", "files"])
def test_huggingface_in_any_order(tmp_path: Path, saved: str) -> None:
    """A map-style data set is one like a folder: it can be cut, held out, and its images are those that were stored."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    root = tmp_path / "set"
    if saved == "to_disk":
        both = {"train": table(range(COUNT)), "test": table(range(5))}
        datasets.DatasetDict(both).save_to_disk(root)
    elif saved == "parquet":
        huggingface_stream(root, "train", [list(range(10)), list(range(10, COUNT))])
        huggingface_stream(root, "test", [list(range(5))])
    else:
        for split, count in (("train", COUNT), ("test", 5)):
            for number in range(count):
                path = root / split / CLASSES[number % 3] / f"{number:02d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png(number))
    settings = Config(dataset="huggingface", data=str(root), image_size=6, batch_size=5, scale=0.9)
    data = sets.load(replace(settings, val_split=0.2, subset=20))
    assert data.classes == CLASSES and (len(data.train), len(data.val), len(data.test)) == (16, 4, 5)
    assert data.test.counts(3) == [2, 2, 1]
    assert len(set(flat(numbers(pair(settings, data)[0], data)))) == 15
    assert len(set(flat(numbers(pair(settings, data)[1], data)))) == 4
    whole = sets.load(settings)
    items = ImageFiles(whole.test, settings, False, (0, 0, 0))
    assert sorted(int(items[row].image[0].max()) // 10 for row in range(5)) == list(range(5))  # type: ignore[index]
    assert data.fingerprint() == sets.load(replace(settings, val_split=0.2, subset=20)).fingerprint()


def test_huggingface_columns(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    rows = table(range(6)).rename_column("label", "kind")
    for name, classes in (("coarse", ["animal", "plant"]), ("fine", [*CLASSES, "oak"])):
        rows = rows.add_column(name, [0] * 6).cast_column(name, datasets.ClassLabel(names=classes))
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "set")
    settings = Config(dataset="huggingface", data=str(tmp_path / "set"))
    assert sets.load(settings).classes == [*CLASSES, "oak"]  # the column with most classes
    plain = rows.select_columns(["image"]).add_column("label", list(range(6)))
    datasets.DatasetDict({"train": plain, "test": plain}).save_to_disk(tmp_path / "plain")
    with pytest.raises(RunError, match="expected one of type Image and one of type ClassLabel"):
        sets.load(replace(settings, data=str(tmp_path / "plain")))
    unlabelled = table(range(6)).map(lambda row: {"label": -1})
    datasets.DatasetDict({"train": table(range(6)), "test": unlabelled}).save_to_disk(tmp_path / "none")
    with pytest.raises(RunError, match="6 images have no label in column 'label'"):
        sets.load(replace(settings, data=str(tmp_path / "none")))


@pytest.mark.parametrize("make", FORMATS)
def test_runs(tmp_path: Path, make: Format, capsys: pytest.CaptureFixture[str]) -> None:
    """A run trains, draws masks, is evaluated and resumed."""
    settings = config(make, tmp_path)
    run = tmp_path / "run"
    words = [
        "train",
        "folder",
        "--dataset",
        make.__name__,
        "--data",
        settings.data,
        "--out",
        str(run),
        "--device",
        "cpu",
    ]
    words += ["--model", "mini_resnet", "--image_size", "16", "--batch_size", "10", "--epochs", "1"]
    words += ["--optimizer", "sgd", "--warmup", "0", "--ema", "0", "--augment", "", "--erasing", "0", "--weights", ""]
    assert main([*words, "--method", "AutoMix", "--policy", "MixUp()", "--workers", "0"]) == 0, capsys.readouterr().err
    summary = json.loads((run / "summary.json").read_text())
    assert summary["images"] == {"train": COUNT, "val": COUNT, "test": COUNT} and summary["classes"] == 3
    assert (run / "masks" / "epoch_001.png").is_file()
    assert main(["eval", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["images"] == COUNT
    assert main(["check", settings.data, "--dataset", make.__name__]) == 0
    assert f"train: {COUNT} images of 3 classes" in capsys.readouterr().out
