"""Records of the epochs of a run: ``metrics.jsonl``, TensorBoard events, pictures of masks, and means over steps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import accelerate.utils
import numpy as np
import torch
from torch import Tensor

from mixwell.train.files import write

Record = dict[str, Any]


class Records:
    """Writes the records of a run.

    Args:
        run: Run directory.
        history: Records of the epochs before; TensorBoard events of later epochs are discarded.
    """

    def __init__(self, run: Path, history: Sequence[Record]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.run = run
        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=len(history) + 1)
        self.write(history)

    def write(self, history: Sequence[Record]) -> None:
        """Write ``metrics.jsonl`` as a whole, so that a resumed run does not repeat an epoch in it."""
        lines = "".join(json.dumps(record) + "\n" for record in history)
        write(self.run / "metrics.jsonl", lines.encode())

    def add(self, history: Sequence[Record]) -> None:
        """Write the record of the last epoch."""
        self.write(history)
        for name, value in history[-1].items():
            self.board.add_scalar(name.replace("_", "/", 1), value, history[-1]["epoch"])
        self.board.flush()

    def picture(self, name: str, image: Any, epoch: int) -> None:
        """Add a picture to the TensorBoard events."""
        self.board.add_image(name, np.asarray(image), epoch, dataformats="HWC")
        self.board.flush()


class Means:
    """Mean of every value that a method reports, over all processes and the steps in which it is reported and finite.

    Sums stay on the device until they are read.

    Example:
        >>> means = Means()
        >>> for value in (1.0, 3.0, float("nan")):
        ...     means.add({"loss": torch.tensor(value)})
        >>> means.read()
        {'loss': 2.0}
    """

    def __init__(self) -> None:
        self.sums: dict[tuple[str, ...], Tensor] = {}  # by what is reported together: sums, then counts

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add the values of one step."""
        names, row = tuple(values), torch.stack([value.detach().float() for value in values.values()])
        finite = row.isfinite()
        row = torch.stack([torch.where(finite, row, 0.0), finite.float()])
        self.sums[names] = self.sums[names] + row if names in self.sums else row

    def read(self) -> dict[str, float]:
        """Return the means; a value that was never finite is left out."""
        mine = [
            (name, *pair)
            for names, rows in self.sums.items()
            for name, pair in zip(names, rows.T.tolist(), strict=True)
        ]
        totals: dict[str, tuple[float, float]] = {}
        for name, value, count in accelerate.utils.gather_object(mine):
            before = totals.get(name, (0.0, 0.0))
            totals[name] = before[0] + value, before[1] + count
        return {name: value / count for name, (value, count) in totals.items() if count}
