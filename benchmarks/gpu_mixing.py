"""Time MixUp and CutMix on a device beside timm, torchvision, kornia and a plain copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from gpu_measure import Host, Rotation, short_syncs, timed
from gpu_record import Record, short, table
from torch import Tensor

import mixwell as mw

Mix = Callable[[Tensor, Tensor], object]
CLASSES = 1000
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "uint8": torch.uint8}


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Args:
        shapes: Batches, ``(B, C, H, W)``.
        total: Bytes of all input sets of one shape; several times the device's cache.
        seconds: Length of one timed series.
    """

    shapes: tuple[tuple[int, int, int, int], ...] = ((1024, 3, 224, 224), (128, 3, 32, 32))
    total: int = 300_000_000
    seconds: float = 0.15


def ours() -> dict[str, Mix]:
    """Name our calls: ``new`` allocates the mixed images, ``in place`` overwrites the batch."""
    calls: dict[str, Mix] = {}
    for policy in (mw.MixUp(), mw.MixUp(scope="sample"), mw.CutMix(), mw.CutMix(scope="sample")):
        name = f"{type(policy).__name__} per {policy.scope}"
        calls[f"{name}, mixwell, new"] = policy
        calls[f"{name}, mixwell, in place"] = lambda x, y, policy=policy: policy(x, y, out=x)
    return calls


def timm_calls() -> dict[str, Mix]:
    """Name the calls of timm, which overwrites the batch and returns dense targets."""
    from timm.data import Mixup

    return {
        f"{name} per {scope}, timm, in place": Mixup(*alphas, mode=mode, num_classes=CLASSES)
        for scope, mode in (("batch", "batch"), ("sample", "elem"))
        for name, alphas in (("MixUp", (1.0, 0.0)), ("CutMix", (0.0, 1.0)))
    }


def torchvision_calls() -> dict[str, Mix]:
    """Name the calls of torchvision, which returns dense targets."""
    from torchvision.transforms import v2

    kinds = {"MixUp": v2.MixUp, "CutMix": v2.CutMix}
    return {f"{name} per batch, torchvision, new": kind(num_classes=CLASSES) for name, kind in kinds.items()}


def kornia_calls() -> dict[str, Mix]:
    """Name the calls of kornia."""
    import kornia.augmentation as K

    keys: dict[str, Any] = {"p": 1.0, "data_keys": ["input", "class"]}
    return {
        "MixUp per sample, kornia, new": K.RandomMixUpV2(**keys),
        "CutMix per sample, kornia, new": K.RandomCutMixV2(**keys, use_correct_lambda=True),
    }


def calls(record: Record) -> dict[str, Mix]:
    """Return everything to measure; a library that is not installed is written to the record."""
    found: dict[str, Mix] = {"copy": lambda x, y: x.clone(), **ours()}
    for peer in (timm_calls, torchvision_calls, kornia_calls):
        try:
            found |= peer()
        except ImportError as error:
            record.write("peer", name=peer.__name__.removesuffix("_calls"), absent=short(error))
    return found


def measure(on: Host, record: Record, setting: Setting, copy_rate: float) -> None:
    """Time every call on every shape and type.

    Args:
        on: The device.
        record: Where to write.
        setting: What to measure.
        copy_rate: Bytes read and written per second by a copy of a large buffer on this device.
    """
    mixes = calls(record)
    for shape, dtype in product(setting.shapes, DTYPES):
        inputs = Rotation(on, shape, DTYPES[dtype], CLASSES, setting.total)
        for name, mix in mixes.items():
            cell = {"call": name, "shape": "x".join(map(str, shape)), "dtype": dtype}
            try:
                row = one(on, mix, inputs, setting.seconds)
            except Exception as error:
                record.write("refused", **cell, error=short(error))
                continue
            record.write("mixing", **cell, **row, copy_share=2 * inputs.bytes / (row["ms"] / 1e3) / copy_rate)
        del inputs
        on.free()


def one(on: Host, mix: Mix, inputs: Rotation, seconds: float) -> dict[str, Any]:
    """Time one call, and count where it waits for the device."""

    def call() -> object:
        return mix(*inputs.next())

    timing = timed(on, call, seconds=seconds, refresh=inputs.refresh)
    return {**vars(timing), "syncs": short_syncs(on.syncs(call))}


def report(record: Record) -> str:
    """Return a table for each shape: milliseconds, spread of the two series, and share of the copy bandwidth."""
    parts = []
    for shape in dict.fromkeys(row["shape"] for row in record.of("mixing")):
        rows = [[shape, *(f"{name} ms" for name in DTYPES), "share of copy rate", "spread", "syncs"]]
        for call in dict.fromkeys(row["call"] for row in record.of("mixing", shape=shape)):
            cells = {row["dtype"]: row for row in record.of("mixing", shape=shape, call=call)}
            ms = [f"{cells[name]['ms']:.3f}" if name in cells else "-" for name in DTYPES]
            share = " / ".join(f"{cells[name]['copy_share']:.2f}" if name in cells else "-" for name in DTYPES)
            spread = max(row["spread"] for row in cells.values())
            syncs = {row["syncs"]["count"] for row in cells.values() if row["syncs"]}
            rows.append([call, *ms, share, f"{spread:.0%}", "/".join(map(str, sorted(syncs))) or "-"])
        parts.append(table(rows))
    return "\n\n".join(parts)
