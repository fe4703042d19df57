"""Checkpoints that survive a kill at any moment and a full disk.

``RUN/checkpoint/epoch-00012`` holds ``model.safetensors`` (the method, classifier included) and ``state.pt`` (all other
state). A folder is renamed to its final name once its files are on the disk; then the previous one is removed. No file
is unpickled in a way that could run code.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import random
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from mixwell.normalization import Normalization
from mixwell.train.config import Config
from mixwell.train.errors import RunError, first_line
from mixwell.train.files import write_through
from mixwell.train.paths import expand
from mixwell.train.sharding import like

# Under which names training programs store the weights of the model in a checkpoint, the usual ones first.
WEIGHTS_INSIDE = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights")
KEYS = {"config", "command", "history", "optimizer", "average", "scaler", "random", "loader"}  # of state.pt


def weights(state: dict[str, Tensor], card: dict[str, Any] | None = None) -> bytes:
    """Return tensors as safetensors, the same bytes every time; shared or strided tensors are copied."""
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    # One entry of metadata, because safetensors writes several in a random order.
    return safetensors.torch.save(plain, None if card is None else {"mixwell": json.dumps(card)})


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a weights file: ``.safetensors``, or a pickle of tensors.

    Args:
        path: The file. Weights may lie inside a training checkpoint, as under ``"model_state_dict"``.

    Raises:
        RunError: The file is missing, damaged, holds no weights, or would have to run code to be read.
    """
    path = expand(path)
    if not path.is_file():
        raise RunError(f"no weights at {path}: expected a .safetensors or .pth file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # every format has its own exceptions
        raise RunError(f"cannot read the weights in {path}: {_reason(error)}") from None
    return _plain_weights(state, path)


def _plain_weights(state: object, path: Path) -> dict[str, Tensor]:
    """Return the dictionary of tensors of a pickle: its content, or the dictionary inside a training checkpoint."""

    def is_weights(value: object) -> bool:
        return (
            isinstance(value, dict)
            and bool(value)
            and all(isinstance(name, str) and isinstance(each, Tensor) for name, each in value.items())
        )

    if is_weights(state):
        return cast("dict[str, Tensor]", state)
    inside = state if isinstance(state, dict) else {}
    found = [name for name in (*WEIGHTS_INSIDE, *inside) if is_weights(inside.get(name))]
    if found and (found[0] in WEIGHTS_INSIDE or len(found) == 1):
        return inside[found[0]]
    keys = ", ".join(repr(name) for name in [*inside][:5])
    what = f"a dictionary with {keys}" if inside else f"a {type(state).__name__}"
    raise RunError(f"{path} holds no weights: expected a dictionary of tensors by name, got {what}")


def load_weights(module: nn.Module, theirs: dict[str, Tensor], path: Path | str, head: str | None = None) -> None:
    """Load every weight of a module.

    Args:
        module: The module.
        theirs: Weights by name.
        path: The file that they were read from, for the error.
        head: Name of the last layer, which stays as it is if its weights do not fit.

    Raises:
        RunError: Names or shapes are others.
    """
    shapes, found = ({name: value.shape for name, value in each.items()} for each in (module.state_dict(), theirs))
    different = {name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name)}
    if odd := sorted(name for name in different if name.rpartition(".")[0] != head):
        raise RunError(
            f"the weights in {path} do not fit the model: {len(odd)} differ in name or shape, such as {odd[0]}"
        )
    own = module.state_dict()
    fitting = {name: like(value, own[name]) for name, value in theirs.items() if name not in different}
    module.load_state_dict(fitting, strict=False)


def stored_card(path: Path) -> dict[str, Any]:
    """Return what a training run wrote beside the weights of its classifier; empty for any other file of weights."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            card = json.loads((file.metadata() or {})["mixwell"])
    except (KeyError, TypeError, ValueError, OSError, SafetensorError):
        return {}
    return card if isinstance(card, dict) else {}


def stored_classes(path: Path) -> list[str]:
    """Return the class names in the file of a classifier.

    Raises:
        RunError: It has none, so it was not written by a training run.
    """
    classes = stored_card(path).get("classes")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise RunError(f"{path} holds no class names: expected the model.safetensors of a training run")
    return classes


def stored_normalization(path: Path) -> Normalization | None:
    """Return the normalization of the images that a classifier was trained on; None if its file does not say."""
    card = stored_card(path)
    if not {"mean", "std"} <= card.keys():
        return None
    try:
        return Normalization(card["mean"], card["std"])
    except (TypeError, ValueError) as error:
        raise RunError(f"{path} holds a wrong normalization: {first_line(error)}") from None


def without_prefix(theirs: dict[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove what a wrapper put before the names of a model's weights, such as ``module.`` or ``_orig_mod.``.

    Args:
        theirs: Weights by name.
        ours: Weights by name as the model has them.

    Example:
        >>> one = torch.zeros(1)
        >>> list(without_prefix({"module.fc.weight": one, "n_averaged": one}, {"fc.weight": one}))
        ['fc.weight']
    """
    name = next(iter(ours))
    prefixes = {key.removesuffix(name) for key in theirs if key == name or key.endswith("." + name)}
    prefix = max(sorted(prefixes), key=lambda prefix: sum(prefix + name in theirs for name in ours), default="")
    if not prefix:
        return theirs
    counter = "n_averaged"  # beside the weights of torch.optim.swa_utils.AveragedModel
    return {key.removeprefix(prefix): value for key, value in theirs.items() if key != counter}


def _reason(error: Exception) -> str:
    """Return why a file cannot be read; torch's own message recommends to trust the file."""
    if isinstance(error, pickle.UnpicklingError):
        return "it is damaged, or would have to run code to be read"
    return first_line(error)


def random_state() -> dict[str, Any]:
    """Return the state of Python's, NumPy's and torch's random numbers, as tensors and plain values."""
    version, numbers, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()  # noqa: NPY002  (libraries that we call may draw from it)
    state = {
        "python": [version, torch.tensor(numbers, dtype=torch.int64), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
        "torch": torch.get_rng_state(),
    }
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def restore_random_state(state: dict[str, Any]) -> None:
    """Restore the state that ``random_state`` returned."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def save(run: Path, epoch: int, model: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Store the checkpoint of an epoch beside the previous one, then remove the previous one.

    Args:
        run: The run directory.
        epoch: Epochs completed.
        model: State of the method.
        state: All other state: tensors and plain values, arbitrarily nested.
    """
    folder = run / "checkpoint"
    folder.mkdir(parents=True, exist_ok=True)
    part, final = folder / "part", folder / f"epoch-{epoch:05d}"
    shutil.rmtree(part, ignore_errors=True)  # left by a run that was killed here
    part.mkdir()
    content = io.BytesIO()
    torch.save(state, content)
    try:
        write_through(part / "model.safetensors", weights(model))
        write_through(part / "state.pt", content.getvalue())
    except OSError:
        shutil.rmtree(part, ignore_errors=True)  # make room on a full disk
        raise
    _sync_folder(part)
    part.rename(final)
    _sync_folder(folder)
    for old in folder.glob("epoch-*"):
        if old != final:
            shutil.rmtree(old, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    """Write renames in a folder to disk, on systems that support it."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def latest(run: Path) -> Path | None:
    """Return the folder of the newest complete checkpoint, or None."""
    return max((run / "checkpoint").glob("epoch-*"), default=None)


def epochs(folder: Path) -> int:
    """Return the number of epochs that a checkpoint has been trained for.

    Example:
        >>> epochs(Path("run/checkpoint/epoch-00012"))
        12
    """
    return int(folder.name.removeprefix("epoch-"))


def load(folder: Path, config: Config) -> dict[str, Any]:
    """Read the state beside the weights of a checkpoint, made with the same config.

    Raises:
        RunError: The checkpoint is damaged, or of another recipe or config.
    """
    try:
        state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    except Exception as error:  # of the file system, zip, pickle
        raise RunError(f"cannot read the checkpoint {folder}: {_reason(error)}") from None
    with damage(folder):
        require(state, KEYS)
        theirs = Config.read(state["config"])
    if theirs.recipe != config.recipe:
        raise RunError(
            f"{folder} is a checkpoint of recipe {theirs.recipe!r}, not of {config.recipe!r}: resume the run it is from"
        )
    changed = theirs.fixed_differences(config)
    if changed:
        raise RunError(f"{folder} was made with another config ({'; '.join(changed)}): start a new run with --out")
    return state


def require(record: dict[str, Any], keys: set[str]) -> None:
    """Raise unless a dictionary has all keys."""
    for name in sorted(keys - record.keys()):
        raise KeyError(f"no entry {name!r}")


@contextlib.contextmanager
def damage(folder: Path) -> Iterator[None]:
    """Turn any error while the state of a checkpoint is restored into a sentence: the file holds something else."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise RunError(f"cannot restore the checkpoint {folder}, state.pt is damaged: {first_line(error)}") from error
