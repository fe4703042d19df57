"""Every code block on the pages about other libraries runs as it stands, from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.mark.parametrize("page", ["with-timm.md", "with-torchvision.md"])
def test_blocks_run(page: str) -> None:
    """Given data and, where a page makes none, a model."""
    images, labels = torch.rand(4, 3, 32, 32), torch.arange(4)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
    given = {"images": images, "labels": labels, "loader": [(images, labels)], "model": model}
    given["dataset"] = [(image, int(label)) for image, label in zip(images, labels, strict=True)]
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 5
    for block in blocks:
        exec(block, given)  # noqa: S102  (our own pages)
