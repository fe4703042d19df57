"""The one reader of image files: which files of a folder are images, and the pixels of one as 8-bit RGB."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mixwell.train.errors import RunError, first_line, one_line

# Formats that Pillow identifies but cannot decode by itself. It would start Ghostscript to decode EPS.
NOT_DECODED = {"BUFR", "EPS", "FPX", "GRIB", "HDF5", "MIC", "MPEG", "WMF"}
SYSTEM_FOLDERS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}


class BadImageError(RunError):
    """An image file cannot be read. ``path`` and ``reason`` say which and why."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"cannot read the image {one_line(path)}: {one_line(reason)}")
        self.path, self.reason = str(path), reason


class Encoded(NamedTuple):
    """An image that is not a file of its own.

    Attributes:
        name: What error messages call it.
        content: The content of an image file, the image itself, or the error that occurred in its place.
    """

    name: str
    content: bytes | Image.Image | Exception


@cache
def formats() -> tuple[str, ...]:
    """Return the names of the formats that are read: all that Pillow can decode."""
    Image.init()
    return tuple(name for name in Image.ID if name not in NOT_DECODED)


@cache
def endings() -> frozenset[str]:
    """Return the file name endings of images, in lower case.

    Example:
        >>> {".jpg", ".jfif", ".gif", ".webp", ".tiff"} <= endings(), ".txt" in endings(), ".eps" in endings()
        (True, False, False)
    """
    known = {*formats(), "MPO"}  # a JPEG with further images behind the first
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in known)


def hidden(name: str) -> bool:
    """Tell whether a file or folder is hidden, or belongs to the operating system.

    Example:
        >>> [hidden(name) for name in (".ipynb_checkpoints", "._x.jpg", "__MACOSX", "x.jpg")]
        [True, True, True, False]
    """
    return name.startswith(".") or name in SYSTEM_FOLDERS


@dataclass
class Found:
    """Image files below a folder, and how many other files were skipped.

    Attributes:
        paths: The image files, sorted.
        skipped: Number of files that are not read, by kind: a file name ending, or ``"hidden"``.
    """

    paths: list[Path] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def find(folder: Path) -> Found:
    """List the image files below a folder, subfolders and linked folders included, hidden ones not.

    Raises:
        RunError: A folder cannot be listed.
    """
    found = Found()
    for path in walk(folder, found.skipped):
        if path.suffix.lower() in endings():
            found.paths.append(path)
        else:
            found.skipped[path.suffix.lower() or "no ending"] += 1
    found.paths.sort()
    return found


def find_some(folder: Path) -> Found:
    """List the image files below a folder, as :func:`find` does.

    Raises:
        RunError: There are none.
    """
    found = find(folder)
    if not found.paths:
        raise RunError(f"no images in {one_line(folder)}: {summary(found.skipped) or 'the folder is empty'}")
    return found


def walk(folder: Path, skipped: Counter[str]) -> Iterator[Path]:
    """Yield all files below a folder; hidden ones, and those in hidden folders, are counted as ``"hidden"`` instead."""
    pending, seen = [folder], {os.path.realpath(folder)}
    while pending:
        for path, is_folder in listed(pending.pop()):
            if hidden(path.name):
                skipped["hidden"] += sum(len(files) for _, _, files in os.walk(path)) if is_folder else 1
            elif not is_folder:
                yield path
            elif (real := os.path.realpath(path)) not in seen:  # a link may lead back
                seen.add(real)
                pending.append(path)


def listed(folder: Path) -> list[tuple[Path, bool]]:
    """Return the entries of a folder, sorted, each with whether it is a folder.

    Raises:
        RunError: The folder cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted((folder / entry.name, _is_folder(entry)) for entry in entries)
    except OSError as error:
        raise RunError(f"cannot list the folder {one_line(folder)}: {error.strerror}") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder; a link that leads nowhere or to itself is a file that cannot be read."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def summary(skipped: Counter[str]) -> str:
    """Say in one line which files were skipped; an empty text if there are none.

    Example:
        >>> summary(Counter({".txt": 2, "hidden": 1}))
        'skipped 3 files that are not images: 2 .txt, 1 hidden'
    """
    if not skipped.total():
        return ""
    kinds = ", ".join(f"{count} {kind}" for kind, count in skipped.most_common())
    if skipped.total() == 1:
        return f"skipped 1 file that is not an image: {kinds}"
    return f"skipped {skipped.total()} files that are not images: {kinds}"


def read(
    path: Path | str | Encoded,
    content: bytes | Image.Image | Exception | None = None,
    kinds: tuple[str, ...] | None = None,
    largest: int = 0,
) -> Image.Image:
    """Read an image file as 8-bit RGB, upright as its EXIF orientation says.

    Of a file with several images the first is read, and transparency is dropped. Pixels of more than 8 bits are
    scaled, see :func:`scaled`.

    Args:
        path: The file, or an image from another place.
        content: The content of the file, if it is not on the disk.
        kinds: Formats that are read, by their names in Pillow; ``None`` means all that Pillow can decode.
        largest: Largest number of pixels; 0 means Pillow's own limit.

    Raises:
        BadImageError: The file is missing, damaged, too large or not an image.
    """
    if isinstance(path, Encoded):
        path, content = path
    try:
        if isinstance(content, Exception):
            raise content
        if isinstance(content, Image.Image):
            content = content.copy()  # turned in place
            _turn_upright(content)
            return _rgb(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata, and about sizes below Pillow's limit
            with Image.open(path if content is None else BytesIO(content), formats=kinds or formats()) as image:
                if largest and image.width * image.height > largest:
                    raise ValueError(f"it has {image.width} x {image.height} pixels, more than {largest:,}")
                image.load()
                _turn_upright(image)
                return _rgb(image)
    except UnidentifiedImageError:
        known = " or ".join(kinds) if kinds else "a format that Pillow knows"
        raise BadImageError(path, f"it is empty, damaged or not in {known}") from None
    except Exception as error:  # every format of Pillow has its own exceptions
        reason = first_line(error).replace(f" {str(path)!r}", "").replace(str(path), "the file")
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        raise BadImageError(path, reason) from None


def _turn_upright(image: Image.Image) -> None:
    with contextlib.suppress(Exception):  # damaged metadata of an image whose pixels are intact
        image.getexif()
        image.info.pop("exif", None)  # Pillow would write it again, which fails if any of it is damaged
        ImageOps.exif_transpose(image, in_place=True)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
        image = Image.fromarray(scaled(np.asarray(image), sixteen))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def scaled(pixels: np.ndarray, sixteen: bool = False) -> np.ndarray:
    """Scale grey pixels of more than 8 bits to uint8.

    Args:
        pixels: Integers or floats, any shape.
        sixteen: Whether the format says that white is 65535. Otherwise white is 1 for floats up to 1, 255 for values
            up to 255, and 65535 for values up to 65535.

    Raises:
        ValueError: Values are NaN, Inf, negative or above 65535, so that white is unknown.

    Example:
        >>> scaled(np.array([0.0, 0.5, 1.0])), scaled(np.array([0, 257, 65535]))
        (array([  0, 128, 255], dtype=uint8), array([  0,   1, 255], dtype=uint8))
    """
    low, high = (float(pixels.min()), float(pixels.max())) if pixels.size else (0.0, 0.0)
    if not (low >= 0 and high <= 65535):  # NaN compares false
        raise ValueError(f"its pixels are between {low:g} and {high:g}, so it is unknown which value is white")
    white = 65535 if sixteen or high > 255 else 255
    if pixels.dtype.kind == "f" and high <= 1:
        white = 1
    return np.floor(pixels.astype(np.float64) * (255 / white) + 0.5).astype(np.uint8)


class BadImages:
    """How unreadable images are treated: stop at the first one, or list them and continue without them.

    Args:
        skip: Whether to go on.
        file: Text file that lists them, one path and reason a line; None to keep no list.
    """

    SHOWN = 5  # how many are printed

    def __init__(self, skip: bool = False, file: Path | None = None) -> None:
        self.skip, self.file = skip, file
        self.reasons: dict[str, str] = {}

    def add(self, found: Iterable[tuple[str, str]]) -> None:
        """Note path and reason of bad images.

        Raises:
            BadImageError: ``skip`` is false.
        """
        for path, reason in found:
            if path not in self.reasons:
                self.reasons[path] = reason
                self._list(path, reason)
                if self.skip:
                    self._print(path, reason)
            if not self.skip:
                hint = "; --bad_images skip goes on without such images, and mixwell check DIR finds them all"
                raise BadImageError(path, reason + hint)

    def _list(self, path: str, reason: str) -> None:
        if self.file is None or not self.file.parent.is_dir():
            return
        line = f"{one_line(path)}\t{one_line(reason)}"
        known = self.file.read_text("utf-8").splitlines() if self.file.is_file() else []
        if line not in known:  # an earlier start of the run, or another process, may have listed it
            with self.file.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def _print(self, path: str, reason: str) -> None:
        if len(self.reasons) <= self.SHOWN:
            print(f"skipped the image {one_line(path)}: {one_line(reason)}", file=sys.stderr, flush=True)
        elif len(self.reasons) == self.SHOWN + 1:
            where = f", listed in {self.file}" if self.file else ""
            print(f"skipped more images{where}", file=sys.stderr, flush=True)
