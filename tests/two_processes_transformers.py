"""A run of two processes with the Trainer of Hugging Face, started by tests/test_transformers.py."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from mixwell.integrations.transformers import AfterStep, MethodModel
from test_transformers import METHODS, Trainer, arguments, losses, network, rows


def main(out: Path) -> None:
    """Train, and write what each process has found."""
    model = MethodModel(METHODS["AutoMix"](network()))
    trainer = Trainer(model, arguments(out), train_dataset=rows(320), callbacks=[AfterStep()])
    trainer.train()
    found = {
        "weights": [p.detach() for p in model.method.parameters()],
        "steps": trainer.state.global_step,
        "progress": model.method.progress,
        "draw": float(torch.rand(())),
        "losses": losses(trainer),
    }
    torch.save(found, out / f"{trainer.args.process_index}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
