"""A run of two processes with Lightning, started by tests/test_lightning.py."""

from __future__ import annotations

import sys
from functools import partial

import torch

from mixwell.integrations.lightning import MethodModule
from test_lightning import METHODS, Losses, loader, network, trainer


def main(out: str) -> None:
    """Train, and write what each process has found."""
    torch.manual_seed(0)
    module = MethodModule(METHODS["AutoMix"](network()), partial(torch.optim.SGD, lr=0.05), ema=0.9)
    losses = Losses()
    run = trainer(callbacks=[losses], devices=2, strategy="ddp", gradient_clip_val=5.0)
    run.fit(module, loader(320))
    found = {
        "weights": [p.detach() for p in module.method.parameters()],
        "steps": run.global_step,
        "progress": module.method.progress,
        "draw": float(torch.rand(())),
        "losses": losses.values,
    }
    torch.save(found, f"{out}-{run.global_rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1])
