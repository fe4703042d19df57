"""Settings that have no effect together: refused where the run would be pointless, else one sentence each."""

from __future__ import annotations

import os
from collections.abc import Iterator

from mixwell.methods import Method
from mixwell.policy import NoMix
from mixwell.train.config import Config
from mixwell.train.errors import RunError, check_memory

IN_MEMORY = {"digits", "cifar10", "cifar100"}
SMALL = 4  # images in a piece of a batch, below which few pairs are possible


def check_pieces(config: Config, method: Method, processes: int) -> str | None:
    """Return a warning where few images can be mixed with each other, as only images of one forward pass are.

    Raises:
        RunError: Every forward pass has one image, so that there is nothing to mix it with.
        MemoryError: The images of a forward pass cannot fit into memory.
    """
    images = config.batch_size // (processes * config.accumulate)
    check_memory(images, config.image_size)
    if images >= SMALL or getattr(method, "policy", None) is None or isinstance(method.policy, NoMix):
        return None
    pieces = f"batch_size {config.batch_size} in {processes * config.accumulate} pieces (processes times accumulate)"
    if images == 1:
        raise RunError(f"{pieces} leaves 1 image per forward pass, so that nothing is mixed: raise --batch_size")
    return f"{pieces} leaves {images} images per forward pass: each is mixed with one of these only"


def ignored(config: Config, steps: int, resized: bool) -> Iterator[str]:
    """Yield a sentence for every setting that has no effect, or less than it says.

    Args:
        config: The settings.
        steps: Optimizer steps per epoch.
        resized: Whether images are read from files or resized one by one, and not kept ready in memory.
    """
    plain, epochs = Config(), config.epochs
    for name, reason, without_effect in (
        ("data", "the digits come with scikit-learn", config.dataset == "digits"),
        ("crop", "images that are resized get a random resized crop", resized),
        ("scale", "images in memory are not resized", not resized),
        ("eval_crop", "only image files are cropped in evaluation", config.dataset in IN_MEMORY),
        ("workers", "images in memory are augmented on the device", not resized and not config.augment),
        ("shard", "there is one process", os.environ.get("WORLD_SIZE", "1") == "1"),
        ("momentum", f"{config.optimizer} has settings of its own", config.optimizer == "adamw"),
        ("decay_all", "weight_decay is 0", config.weight_decay == 0),
        ("val_every", "the last ten epochs are always validated", epochs <= 10),
        ("save_every", "it exceeds epochs: only the last epoch is saved", config.save_every > epochs),
    ):
        if without_effect and getattr(config, name) != getattr(plain, name):
            yield f"{name} {getattr(config, name)} has no effect: {reason}"
    if config.warmup > epochs:
        yield f"warmup {config.warmup:g} is longer than the run of {epochs} epochs: it ends after {epochs / 2:g}"
    if config.lr == 0:
        yield "lr 0 trains nothing"
    if config.ema and epochs * steps * (1 - config.ema) < 1:
        yield f"ema {config.ema} averages over more steps than the {epochs * steps} of this run: a smaller one fits it"
