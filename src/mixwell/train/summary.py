"""The results of a finished run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from mixwell.train.errors import RunError
from mixwell.train.files import parsed, text, write


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The results of a finished run, as in its ``summary.json``.

    Attributes:
        recipe, dataset, model, policy, method: What was trained, with which seed and for how many epochs.
        seed: Random seed.
        epochs: Epochs trained.
        val_top1: Validation accuracy (percent): ``last``, ``best``, ``best_epoch``, ``median_last_10``; None for
            several labels per image.
        ema_top1: The same of the EMA of the weights; None without EMA.
        val_map, ema_map: Mean average precision instead of accuracy, for several labels per image.
        validated_on: ``"test images"`` or ``"held-out images"``.
        test: Measures of the final classifier on the test images, as ``evaluate`` returns them.
        parameters: Number of parameters of the classifier.
        images: Number of images of each split.
        classes: Number of classes.
        skipped_files: Number of files in the data set that are not images, by kind.
        bad_images: Number of images that could not be read.
        seconds: Time of all epochs, validation included.
        images_per_second: Median training speed of an epoch.
        command: Command line of the run.
        environment: Machine and versions.
        mask: The learned mask as a policy; None for a method that does not learn one.
    """

    recipe: str = ""
    dataset: str = ""
    model: str = ""
    policy: str = ""
    method: str = ""
    seed: int = 0
    epochs: int = 0
    val_top1: dict[str, float] | None = None
    ema_top1: dict[str, float] | None = None
    val_map: dict[str, float] | None = None
    ema_map: dict[str, float] | None = None
    validated_on: str = ""
    test: dict[str, float] = field(default_factory=dict[str, float])
    parameters: int = 0
    images: dict[str, int] = field(default_factory=dict[str, int])
    classes: int = 0
    skipped_files: dict[str, int] = field(default_factory=dict[str, int])
    bad_images: int = 0
    seconds: float = 0.0
    images_per_second: float = 0.0
    command: str = ""
    environment: dict[str, Any] = field(default_factory=dict[str, Any])
    mask: str | None = None

    def write(self, path: Path) -> None:
        """Write the summary as JSON, without the fields that are None."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        write(path, (json.dumps(values, indent=2) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> Summary:
        """Read the summary that ``write`` wrote; unknown fields are ignored, missing ones take their default.

        Raises:
            RunError: The file is not a JSON object, or a field has the wrong type.
        """
        values, hints = parsed(text(path), str(path)), get_type_hints(cls)
        known = {name: value for name, value in values.items() if name in hints}
        for name, value in known.items():
            kind = get_args(hints[name])[0] if isinstance(hints[name], UnionType) else hints[name]  # X of X | None
            kind = get_origin(kind) or kind
            if not isinstance(value, (int, float) if kind is float else kind):
                raise RunError(f"{name} in {path} has the wrong type: {value!r}")
        return cls(**known)
