"""Our policies for a table beside other libraries: the peers' harness takes ``benchmarks.mixing:factory``.

The harness calls each entry as ``fn(x, y)`` and restores ``x`` before every call, so that policies may work in place, as
timm does; ``/buffer`` rows write to a buffer of their own instead and leave ``x`` alone, ``/fresh`` rows allocate.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import mixwell as mw

Call = Callable[[Tensor, Tensor], object]


def factory(num_classes: int, size: int, dtype: torch.dtype) -> dict[str, Call]:
    """Name every policy as ``policy[/variant]``; variants per batch have no suffix, per sample ``/elem``."""
    policies: dict[str, mw.BatchPolicy] = {
        "mixup": mw.MixUp(),
        "mixup/elem": mw.MixUp(scope="sample"),
        "cutmix": mw.CutMix(),
        "cutmix/elem": mw.CutMix(scope="sample"),
    }
    calls: dict[str, Call] = {}
    for name, policy in policies.items():
        calls[name] = _in_place(policy)
        calls[f"{name}/buffer"] = _buffered(policy)
        calls[f"{name}/fresh"] = policy
    for name, policy in {
        "resizemix/elem": mw.ResizeMix(scope="sample"),
        "fmix": mw.FMix(),
        "fmix/elem": mw.FMix(scope="sample"),
        "saliencymix/elem": mw.SaliencyMix(),
    }.items():
        calls[name] = _buffered(policy)
    return calls


def _in_place(policy: mw.BatchPolicy) -> Call:
    return lambda x, y: policy(x, y, out=x)


def _buffered(policy: mw.BatchPolicy) -> Call:
    buffer: list[Tensor] = []

    def call(x: Tensor, y: Tensor) -> object:
        if not buffer:
            buffer.append(torch.empty_like(x))
        return policy(x, y, out=buffer[0])

    return call
