"""Every code block on the pages about other libraries runs unchanged, from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from torch.utils.data import DataLoader

import test_docs_code

PAGES = [
    "with-timm.md",
    "with-torchvision.md",
    "with-lightning.md",
    "with-transformers.md",
    "with-accelerate.md",
    "with-keras.md",
]


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page in one language."""
    return [block.code for block in test_docs_code.blocks(f"docs/{page}") if block.language == language]


@pytest.mark.filterwarnings("ignore:::lightning")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("page", PAGES)
def test_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given data and, where a page makes none, a model and a folder."""
    if page == "with-keras.md":
        monkeypatch.setenv("KERAS_BACKEND", "torch")
        pytest.importorskip("keras", reason="Keras is not installed")
    images, labels = torch.rand(4, 3, 32, 32), torch.arange(4)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
    given = {"images": images, "labels": labels, "loader": [(images, labels)], "model": model}
    given["dataset"] = [(image, int(label)) for image, label in zip(images, labels, strict=True)]
    given["folder"] = str(tmp_path)
    if page == "with-lightning.md":
        given["loader"] = DataLoader(given["dataset"], 2)
    if page == "with-accelerate.md":
        given["loader"] = DataLoader(given["dataset"], 2)
        AcceleratorState._reset_state(reset_partial_state=True)
    found = blocks(page, "python")
    assert found
    try:
        for block in found:
            exec(block, given)  # noqa: S102  (our own pages)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


@pytest.mark.parametrize("page", PAGES)
def test_new_lines_of_diffs_are_run(page: str) -> None:
    """What a diff adds also stands in a block that runs, up to the names of arguments."""
    code = re.sub(r"\s+", "", "".join(blocks(page, "python")))
    for diff in blocks(page, "diff"):
        for line in diff.splitlines():
            called = re.search(r"(?:mw\.)?[A-Za-z_]+\(", line)
            if line.startswith("+") and called:
                assert called.group() in code, f"{page}: {line}"
