"""JPEG compression and decompression in torch: the loss without the file."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell.evaluation.corruptions.draws import Draws

TO_YCC = (
    (0.299, 0.587, 0.114),
    (-0.168735892, -0.331264108, 0.5),
    (0.5, -0.418687589, -0.081312411),
)
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))  # 99 everywhere else


def luminance_and_chroma(pixels: Tensor) -> Tensor:
    """Return RGB from 0 to 255 as Y, Cb and Cr from 0 to 255, as JPEG defines them."""
    return torch.einsum("bchw,kc->bkhw", pixels, pixels.new_tensor(TO_YCC)) + pixels.new_tensor([0, 128, 128]).view(
        3, 1, 1
    )


def red_green_blue(planes: Tensor) -> Tensor:
    """Invert :func:`luminance_and_chroma`."""
    y, cb, cr = (planes - planes.new_tensor([0, 128, 128]).view(3, 1, 1)).unbind(1)
    return torch.stack([y + 1.402 * cr, y - 0.344136286 * cb - 0.714136286 * cr, y + 1.772 * cb], 1)


def jpeg_compression(pixels: Tensor, draws: Draws, quality: int) -> Tensor:
    """Compress as baseline JPEG does, with chroma at half resolution, and decompress."""
    H, W = pixels.shape[2:]
    if pixels.shape[1] != 3:
        return _coded((pixels * 255).round(), quality, torch.tensor(LUMINANCE)).clamp(0, 255) / 255
    planes = luminance_and_chroma((pixels * 255).round()).round()
    chroma_table = torch.full((8, 8), 99)
    chroma_table[:4, :4] = torch.tensor(CHROMA)
    chroma = _padded(planes[:, 1:], 2)
    half = chroma.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).sum((3, 5))
    bias = 1 + torch.arange(half.shape[3], device=half.device) % 2
    chroma = _coded(((half + bias) / 4).floor(), quality, chroma_table)
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear").round()[:, :, :H, :W]
    luminance = _coded(planes[:, :1], quality, torch.tensor(LUMINANCE))
    return red_green_blue(torch.cat([luminance, chroma], 1)).round().clamp(0, 255) / 255


def _coded(planes: Tensor, quality: int, table: Tensor) -> Tensor:
    """Return planes from 0 to 255 after quantisation of the cosine transform of their 8 x 8 blocks."""
    H, W = planes.shape[2:]
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    table = ((table * scale + 50) // 100).clamp(1, 255).to(planes)
    k = torch.arange(8, dtype=torch.float64)
    cosine = torch.cos((2 * k + 1) * k[:, None] * math.pi / 16) / 2
    cosine[0] /= math.sqrt(2)
    cosine = cosine.to(planes)
    blocks = (_padded(planes, 8) - 128).unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)
    levels = (cosine @ blocks @ cosine.T / table).round() * table
    blocks = (cosine.T @ levels @ cosine + 128).round().clamp(0, 255)
    return blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)[:, :, :H, :W]


def _padded(planes: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until both sides are multiples of a number."""
    H, W = planes.shape[2:]
    return F.pad(planes, (0, -W % multiple, 0, -H % multiple), mode="replicate")
