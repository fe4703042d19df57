"""Run directories as the training loop writes them, and a reader of the report on them."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from mixwell.report import page as report_page
from mixwell.train.recipes import RECIPES

DATA = ("data:image/png;base64,", "data:text/csv;base64,")
VOID = {"meta", "img", "br", "hr", "input", "link"}


def make_run(path: Path, seed: int = 0, epochs: int = 12, done: int | None = None, **settings: str) -> Path:
    """Write a run directory as the loop does; with ``done`` it was stopped after so many epochs."""
    config = replace(RECIPES["digits"](), seed=seed, epochs=epochs, **settings)
    path.mkdir(parents=True)
    (path / "config.json").write_text(config.json())
    records = [
        {
            "epoch": epoch,
            "train_loss": 2 / epoch + seed / 100,
            "images_per_second": 1000.0 + 7 * epoch + seed,
            "seconds": 0.5 + 0.01 * seed,
        }
        | ({"val_top1": 90 + 5 * (epoch * (7 + seed) % 11) / 11} if epoch % 2 == 0 or epoch > epochs - 10 else {})
        for epoch in range(1, (epochs if done is None else done) + 1)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if done is None:
        facts = {"validated_on": "test images", "environment": {"python": "3.11", "device": "cpu", "commit": None}}
        (path / "summary.json").write_text(
            json.dumps({**facts, "command": f"mixwell train digits --seed {seed} --out x"})
        )
    return path


def metrics(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


class Reader(HTMLParser):
    """Collects tags, text and table cells, and insists that every tag is closed in its turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"td", "th"} & set(self.open[-2:]):  # a cell, or a link in it
            self.rows[-1][-1] += data


def written(*arguments: Path | str, out: Path) -> str:
    report_page.main([*map(str, arguments), "--out", str(out)])
    return out.read_text(encoding="utf-8")
