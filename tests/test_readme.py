"""README and docs pages are current, and all their examples run."""

from __future__ import annotations

import re
import runpy
from functools import partial
from pathlib import Path

import pytest
import torch

import mixwell
from mixwell import models

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
ELSEWHERE = {"with-timm.md", "with-torchvision.md"}  # test_integration_pages.py runs them
RUN = [page for page in PAGES if page not in ELSEWHERE and "```python\n" in (ROOT / "docs" / page).read_text("utf-8")]


def test_table_of_policies_is_current() -> None:
    """The README has the tables that ``make pages`` writes."""
    script = runpy.run_path(str(ROOT / "docs" / "make_readme_table.py"))
    assert script["filled"](README) == README, "README.md is not current: run 'make pages'"


def test_examples_run() -> None:
    """The code of the README runs unchanged, given a model and data, and trains the model."""
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
    assert len(blocks) == 2
    exec("\n".join(blocks), given)  # noqa: S102  (our own README)
    assert not torch.equal(model[1].weight, before)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", README))))
def test_links_lead_somewhere(path: str) -> None:
    """Every file that the README refers to exists."""
    assert (ROOT / path).exists()


@pytest.mark.parametrize("page", PAGES)
def test_links_of_pages_lead_somewhere(page: str) -> None:
    """Every file that a page refers to exists."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text)
    assert all((ROOT / "docs" / link).exists() for link in links)


@pytest.mark.parametrize("page", RUN)
@pytest.mark.filterwarnings("ignore:The optimizer does not update")  # pages that create only a method, or only a model
def test_examples_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All code of a page runs from top to bottom, given a model and data, and changes the model's weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    model = models.build("resnet18", 100)
    before = model.fc.weight.detach().clone()
    loader = [(torch.rand(4, 3, 32, 32), torch.arange(4))]
    given = {"model": model, "loader": loader, "steps": 1, "epochs": 1, "device": torch.device("cpu")}
    given |= {"torch": torch, "mw": mixwell, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    given |= dict(zip(("images", "labels"), loader[0], strict=True))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)
    exec("\n".join(blocks), given)  # noqa: S102  (our own page)
    if "optimizer.step()" in "".join(blocks):
        assert not torch.equal(model.fc.weight, before)
