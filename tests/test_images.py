"""The reader of image files: formats, orientation, bit depths, damaged files, and `mixwell check`."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("accelerate")
from PIL import Image, ImageOps, features

from mixwell.report import samples
from mixwell.train import images
from mixwell.train.cli import main
from mixwell.train.errors import RunError

PATCHES = np.arange(24).reshape(4, 6, 1) * [10, 5, 8]
PHOTO = np.kron(PATCHES, np.ones((8, 8, 1))).astype(np.uint8)
FORMATS = {  # ending: largest error of a pixel
    "png": 0, "bmp": 0, "tif": 0, "tiff": 0, "ppm": 0, "tga": 0, "webp": 40, "jpg": 40, "jpeg": 40, "jfif": 40,
    "jpe": 40, "gif": 20, "jp2": 40, "avif": 40, "sgi": 0, "pcx": 0, "ico": 2, "dds": 0, "qoi": 0, "apng": 0,
}  # fmt: skip


def pixels(path: Path) -> np.ndarray:
    return np.asarray(images.read(path)).astype(int)


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("upper", [False, True])
def test_formats(tmp_path: Path, ending: str, upper: bool) -> None:
    if ending == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    path = tmp_path / f"x.{ending.upper() if upper else ending}"
    try:
        Image.fromarray(PHOTO).save(path, **({"sizes": [(48, 32)]} if ending == "ico" else {}))
    except (OSError, KeyError, ValueError) as error:
        pytest.skip(f"this Pillow cannot write {ending}: {error}")
    assert images.find(tmp_path).paths == [path]
    assert images.read(path).mode == "RGB" and np.abs(pixels(path) - PHOTO).max() <= FORMATS[ending]


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "PA"])
def test_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    ending = {"CMYK": "tif", "YCbCr": "tif"}.get(mode, "png")
    source = Image.fromarray(PHOTO[..., 0] if mode in ("1", "L", "LA") else PHOTO)
    image = source.convert("P").convert("PA") if mode == "PA" else source.convert(mode)
    if mode == "PA":
        image = image.convert("RGBA").quantize(200)  # a palette with transparency, which Pillow warns about
    # Pillow cannot read the YCbCr files that it writes without compression.
    image.save(tmp_path / f"x.{ending}", **({"compression": "tiff_lzw"} if mode == "YCbCr" else {}))
    expected = np.asarray(image.convert("RGBA").convert("RGB") if mode != "YCbCr" else image.convert("RGB")).astype(int)
    assert np.abs(pixels(tmp_path / f"x.{ending}") - expected).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
def test_orientation(tmp_path: Path, orientation: int, ending: str) -> None:
    """What is read equals what Pillow's own function turns upright, and the show command sees the same."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x.{ending}"
    Image.fromarray(PHOTO).save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
    assert np.array_equal(pixels(path), expected)
    assert pixels(path).shape == ((32, 48, 3) if orientation < 5 else (48, 32, 3))
    path.with_name(f"y.{ending}").write_bytes(path.read_bytes())
    shown = samples.from_folder(tmp_path, 2, 32).pixels[0] * 255
    square = np.asarray(ImageOps.fit(Image.fromarray(expected.astype(np.uint8)), (32, 32), Image.Resampling.LANCZOS))
    assert np.abs(shown.permute(1, 2, 0).numpy() - square).max() < 0.6


def test_orientation_beside_metadata_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image is turned although another tag is damaged, and 16-bit pixels keep their white."""
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = np.kron(np.array([[0, 65535, 257]], np.uint16), np.ones((4, 4), np.uint16))
    Image.fromarray(PHOTO).save(tmp_path / "x.jpg", exif=exif)
    Image.fromarray(wide).save(tmp_path / "y.png", exif=exif)
    with Image.open(tmp_path / "x.jpg") as image:
        expected = np.asarray(ImageOps.exif_transpose(image)).astype(int)
    monkeypatch.setattr(Image.Exif, "tobytes", lambda *_: pytest.fail("the metadata are written"))
    assert np.array_equal(pixels(tmp_path / "x.jpg"), expected)
    assert pixels(tmp_path / "y.png")[:, 0, 0].tolist() == [0] * 4 + [255] * 4 + [1] * 4


def test_damaged_metadata_is_not_a_damaged_image(tmp_path: Path) -> None:
    Image.fromarray(PHOTO).save(tmp_path / "x.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff broken")
    assert np.abs(pixels(tmp_path / "x.jpg") - PHOTO).max() <= 40


RAMP = np.linspace(0, 1, 64).reshape(8, 8)
GREY = np.floor(RAMP * 255 + 0.5).astype(int)


@pytest.mark.parametrize(
    ("ending", "values"),
    [
        ("png", (RAMP * 65535).round().astype(np.uint16)),
        ("tif", (RAMP * 65535).round().astype(np.uint16)),
        ("tif", (RAMP * 65535).round().astype(np.int32)),
        ("tif", (RAMP * 255).round().astype(np.int32)),
        ("tif", RAMP.astype(np.float32)),
        ("tif", (RAMP * 255).astype(np.float32)),
        ("tif", (RAMP * 65535).astype(np.float32)),
        ("pgm", (RAMP * 65535).round().astype(np.uint16)),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.dtype}-{value.max():.0f}",
)
def test_more_than_8_bits_are_scaled(tmp_path: Path, ending: str, values: np.ndarray) -> None:
    path = tmp_path / f"x.{ending}"
    if ending == "pgm":
        path.write_bytes(b"P5 8 8 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)
    found = pixels(path)
    assert np.abs(found - GREY[..., None]).max() <= 1 and found.max() == 255 and found.min() == 0


def test_dark_16_bit_images_stay_dark(tmp_path: Path) -> None:
    """White is fixed by the format, not by the brightest pixel."""
    for ending in ("png", "tif"):
        Image.fromarray((RAMP * 200).astype(np.uint16)).save(tmp_path / f"x.{ending}")
        assert pixels(tmp_path / f"x.{ending}").max() == 1


@pytest.mark.parametrize("values", [[-1.0, 1.0], [0.0, np.nan], [0.0, np.inf], [0.0, 1e6]])
def test_unknown_white_is_said(tmp_path: Path, values: list[float]) -> None:
    Image.fromarray(np.array([values], np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(images.BadImageError, match="it is unknown which value is white"):
        images.read(tmp_path / "x.tif")


def encoded(ending: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(PHOTO).save(content, ending)
    return content.getvalue()


def bomb() -> bytes:
    """A PNG that states 60000 x 60000 pixels."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    chunks = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


BAD = {
    "empty.png": b"",
    "text.jpg": b"<html>404 not found</html>",
    "cut.jpg": encoded("JPEG")[:400],
    "cut.png": encoded("PNG")[:60],
    "cut.webp": encoded("WEBP")[:60],
    "cut.gif": encoded("GIF")[:30],
    "cut.tif": encoded("TIFF")[:200],
    "header.png": encoded("PNG")[:8],
    "checksum.png": encoded("PNG")[:40] + b"\xff" + encoded("PNG")[41:],
    "bomb.png": bomb(),
    "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_one_sentence(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(BAD[name])
    with pytest.raises(images.BadImageError) as caught:
        images.read(path)
    assert str(caught.value).startswith(f"cannot read the image {path}: ") and "\n" not in str(caught.value)
    assert str(caught.value).count(str(path)) == 1
    assert ("decompression bomb" in str(caught.value)) == (name == "bomb.png")


def test_missing_image_and_folder_with_an_ending(tmp_path: Path) -> None:
    (tmp_path / "x.png").mkdir()
    for path in (tmp_path / "x.png", tmp_path / "none.png"):
        with pytest.raises(images.BadImageError, match=r"cannot read the image .*: (Is a directory|No such file)"):
            images.read(path)


def test_postscript_is_never_interpreted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its name, a file cannot start Ghostscript."""
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **kwargs: pytest.fail("Ghostscript was started"))
    (tmp_path / "x.jpg").write_bytes(BAD["script.eps"])
    with pytest.raises(images.BadImageError):
        images.read(tmp_path / "x.jpg")
    assert images.find(tmp_path).paths == [tmp_path / "x.jpg"]
    assert ".eps" not in images.endings() and ".pdf" not in images.endings()


def test_check_reads_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            (tmp_path / split / name).mkdir(parents=True)
            for n in range(3):
                Image.fromarray(PHOTO[n:]).save(tmp_path / split / name / f"{n}.png")
    (tmp_path / "train" / "ant" / "notes.txt").write_text("")
    assert main(["check", str(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "train: 6 images of 2 classes, 3 to 3 of each",
        "val: 6 images of 2 classes, 3 to 3 of each",
        "skipped 1 file that is not an image: 1 .txt",
        "12 images can be read, 48x30 to 48x32 pixels",
    ]
    for name, content in BAD.items():
        if not name.endswith(".eps"):
            (tmp_path / "val" / "bee" / name).write_bytes(content)
    assert main(["check", str(tmp_path), "--threads", "2", "--list", str(tmp_path / "bad.txt")]) == 2
    said = capsys.readouterr()
    names = [Path(line).name for line in (tmp_path / "bad.txt").read_text().splitlines()]
    assert sorted(names) == sorted(name for name in BAD if not name.endswith(".eps"))
    assert said.err == (
        "mixwell: 10 of 22 images cannot be read: repair or remove them, or train with --bad_images skip\n"
    )
    assert all(f"cannot read the image {tmp_path / 'val' / 'bee' / name}: " in said.out for name in names)
    assert main(["check", str(tmp_path / "train" / "ant")]) == 0  # a folder without splits
    assert "3 images can be read" in capsys.readouterr().out


def test_check_of_what_a_run_could_not_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train" / "one").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    for args, words in [
        ([str(tmp_path / "none")], "no folder or CSV file "),
        ([str(tmp_path)], "holds one class, 'one'"),
        ([str(tmp_path / "empty")], "no images in "),
        ([str(tmp_path), "--threads", "-1"], "threads must be at least 1, got -1"),
        ([], "the following arguments are required: DIR"),
    ]:
        assert main(["check", *args]) == 2
        said = capsys.readouterr()
        assert words in said.err and said.err.count("\n") == 1 and not said.out


def test_real_photographs(shared: Path) -> None:
    photos = shared / "data" / "photos"
    if not photos.is_dir():
        pytest.skip("no data/photos in the shared folder")
    found = images.find(photos)
    assert len(found.paths) == 40
    for path in found.paths[::8]:
        with Image.open(path) as image:
            assert np.array_equal(pixels(path), np.asarray(ImageOps.exif_transpose(image).convert("RGB")))


def test_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot list the folder .*: No such file"):
        images.find(tmp_path / "none")
