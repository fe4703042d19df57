"""The README says what the code says, and its example runs."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch

import mixwell
from mixwell import models

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_table_of_policies_is_current() -> None:
    """Nobody has to remember to run ``make docs``."""
    script = runpy.run_path(str(ROOT / "docs" / "make_readme_table.py"))
    assert script["filled"](README) == README, "README.md is behind the docstrings: run 'make docs'"


def test_examples_run() -> None:
    """The code of the README runs as it stands, given a model and data, and trains the model."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 100))
    before = model[1].weight.detach().clone()
    images, labels = torch.rand(4, 3, 8, 8), torch.randint(100, (4,))
    given = {
        "model": model,
        "loader": [(images, labels)],
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "images": images,
        "labels": labels,
        "generator": torch.Generator(),
    }
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) > 2
    exec("\n".join(blocks), given)  # noqa: S102  (our own README)
    assert not torch.equal(model[1].weight, before)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)\)", README))))
def test_links_lead_somewhere(path: str) -> None:
    """Every file that the README points at is there."""
    assert (ROOT / path).exists()


@pytest.mark.parametrize("page", ["automix.md", "sumix.md"])
def test_examples_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code at the top of a method's page trains a model and does what its comments say."""
    monkeypatch.chdir(tmp_path)
    model = models.build("resnet18", 100)
    before = model.fc.weight.detach().clone()
    given = {"model": model, "loader": [(torch.rand(4, 3, 32, 32), torch.arange(4))], "steps": 1, "mw": mixwell}
    given |= {"torch": torch, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    code = (ROOT / "docs" / page).read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    exec(code, given)  # noqa: S102  (our own page)
    assert not torch.equal(model.fc.weight, before)
