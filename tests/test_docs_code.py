"""Every code block of README, CONTRIBUTING and docs has a language, and runs or gives the reason why not.

Blocks of Python run from top to bottom of their page, given a model and data. Commands run one after the other in an
empty folder. A block that is not run has a comment before it, ``<!-- not run: REASON -->``; its commands are parsed.
Commands of the pages on training are in test_docs_commands.py, which runs all of them on tiny data.
"""

from __future__ import annotations

import re
import shlex
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import mixwell
from mixwell import models
from mixwell.train import cli
from mixwell.train.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[1]
GENERATED = {"policies", "methods", "reference"}  # their examples are doctests, see test_pages.py
ON_TINY_DATA = ["docs/scale.md", "docs/sweeps.md", "docs/train.md"]  # in test_docs_commands.py
LANGUAGES = {"python", "pycon", "bash", "sh", "diff", "yaml", "text", "csv"}
BLOCK = re.compile(
    r"^(<!-- not run: (?P<reason>[^>]+) -->\n)?(?P<mark> *)```(?P<language>\w*)\n(?P<code>.*?)```", re.M | re.S
)


class Block(NamedTuple):
    """A code block: its language, its text, and why it is not run, if it is not."""

    language: str
    code: str
    reason: str | None


def pages() -> list[str]:
    """Return all pages with code, by their path in the repository."""
    docs = [path for path in sorted((ROOT / "docs").glob("**/*.md")) if path.parent.name not in GENERATED]
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *docs]
    return [str(path.relative_to(ROOT)) for path in found if path.name != "lab-book.md"]


def blocks(page: str) -> list[Block]:
    """Return the code blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [Block(each["language"], each["code"], each["reason"]) for each in BLOCK.finditer(text)]


def commands(code: str) -> list[list[str]]:
    """Return the commands of a block as words, without comments."""
    lines = code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def chosen(*languages: str, run: bool) -> list[str]:
    """Return the pages that have blocks in one of these languages that are run, or that are not."""
    return [p for p in pages() if any(b.language in languages and (b.reason is None) == run for b in blocks(p))]


# The pages on other libraries need those libraries' data and state; test_integration_pages.py runs them.
PYTHON = [page for page in chosen("python", run=True) if "/with-" not in page]


@pytest.mark.parametrize("page", pages())
def test_every_block_has_a_language(page: str) -> None:
    """No block escapes the tests by having none, and no block is cut off."""
    text = (ROOT / page).read_text(encoding="utf-8")
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) == 2 * len(blocks(page))
    assert {block.language for block in blocks(page)} <= LANGUAGES


@pytest.mark.parametrize("page", PYTHON)
@pytest.mark.filterwarnings("ignore:The optimizer does not update")  # pages that create only a method, or only a model
@pytest.mark.filterwarnings("ignore:after_step was never called")
def test_python_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All Python of a page runs from top to bottom, and changes the weights of the model that an optimizer trains."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    model = models.build("resnet18", 100)
    before = model.fc.weight.detach().clone()
    loader = [(torch.rand(4, 3, 32, 32), torch.arange(4))]
    given = {"model": model, "loader": loader, "steps": 1, "epochs": 1, "device": torch.device("cpu")}
    given |= {"torch": torch, "mw": mixwell, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    given |= dict(zip(("images", "labels"), loader[0], strict=True)) | {"generator": torch.Generator()}
    code = "\n".join(block.code for block in blocks(page) if block.language == "python" and not block.reason)
    exec(_dedented(code), given)  # noqa: S102  (our own page)
    if "optimizer.step()" in code:
        assert not torch.equal(model.fc.weight, before)


def _dedented(code: str) -> str:
    """Return the code of blocks inside a list, which are indented, like others."""
    return re.sub(r"^   ", "", code, flags=re.MULTILINE) if code.startswith("   ") else code


@pytest.mark.parametrize("page", [page for page in chosen("bash", run=True) if page not in ON_TINY_DATA])
def test_commands_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All commands of a page run one after the other."""
    monkeypatch.chdir(tmp_path)
    for block in blocks(page):
        if block.language == "bash" and not block.reason:
            for words in commands(block.code):
                assert words[0] == "mixwell", f"not a command of ours: mark the block, or change {shlex.join(words)}"
                assert cli.main(words[1:]) == 0, shlex.join(words)


@pytest.mark.parametrize("page", sorted({*chosen("bash", run=True), *chosen("bash", run=False)}))
def test_commands_exist(page: str) -> None:
    """Every command of mixwell on a page is one that the program knows, with recipes and options that exist."""
    for block in blocks(page):
        for words in commands(block.code) if block.language == "bash" else ():
            ours = next((k + 1 for k, word in enumerate(words) if word == "mixwell"), None)
            if ours is None or words[0] in ("pip", "git"):
                continue
            argv = [cli._underscored(word) for word in words[ours:] if word != "--help"]
            assert argv[0] in cli.COMMANDS, shlex.join(words)
            if argv[0] in ("train", "eval"):
                args, unknown = cli._parser(argv).parse_known_args(argv)
                assert not unknown, shlex.join(words)
                assert getattr(args, "recipe", "digits") in {*RECIPES, "RECIPE"}, shlex.join(words)


def test_reasons_are_needed() -> None:
    """A block that is not run installs something, or needs data or machines that tests do not have."""
    assert not {*chosen("bash", "yaml", "python", run=False)} & {*ON_TINY_DATA}
    for page in pages():
        for block in blocks(page):
            if block.reason:
                assert re.match(r"installs|needs|takes", block.reason), f"{page}: {block.reason}"
