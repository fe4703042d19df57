"""Every setting of a training run, typed, with its unit."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, ClassVar, get_type_hints

from mixwell.parse import nearest
from mixwell.train.errors import RunError

PRECISIONS = ("fp32", "bf16", "fp16")


def setting(default: Any, text: str) -> Any:
    """Return a dataclass field that carries its explanation to ``--help``."""
    return dataclasses.field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class Config:
    """What a run does; two runs with equal configs on the same machine give the same numbers.

    Raises:
        RunError: a value is outside its range; the sentence names the field.

    Example:
        >>> Config.read(Config(epochs=3).json()) == Config(epochs=3)
        True
    """

    MAY_CHANGE: ClassVar = frozenset({"data", "device", "threads", "workers", "save_every"})  # when a run is resumed

    recipe: str = setting("custom", "name of the recipe the other values came from")
    # what is learned
    dataset: str = setting("digits", "digits, cifar10, cifar100 or folder")
    data: str = setting("", "folder that holds the data set (path; digits needs none)")
    subset: int = setting(0, "training images used, the same number of each class, fixed (images; 0 = all)")
    val_split: float = setting(0.0, "share of the training images held out to validate on (0 to 0.9; 0 = test images)")
    image_size: int = setting(32, "side of the square the network sees; CIFAR is resized to it (pixels)")
    crop: int = setting(0, "random shift of small images, reflected at the border (pixels)")
    scale: float = setting(0.08, "smallest share of an image of another size that a random crop keeps (area, 0 to 1)")
    eval_crop: float = setting(0.875, "share of a folder image's side that is kept when it is evaluated (0 to 1)")
    flip: bool = setting(False, "mirror half of the training images (true or false)")
    augment: str = setting("", "RandAugment as timm writes it, such as rand-m9-mstd0.5-inc1 (expression)")
    erasing: float = setting(0.0, "probability of filling a random box of a training image with noise (0 to 1)")
    # by what
    model: str = setting(
        "mini_resnet",
        "resnet18, resnext50_32x4d, wide_resnet28_8, mini_resnet, timm/NAME[(SETTING=VALUE)]",
    )
    weights: str = setting("", "pretrained weights to start from (path of a .safetensors or .pth file, or timm/TAG)")
    policy: str = setting("none", "mixing policy, such as 'CutMix(alpha=0.2)', or none (expression)")
    method: str = setting("Mixing", "training method, such as SUMix or 'SUMix(gamma=1.0)' (expression)")
    # how
    epochs: int = setting(10, "passes over the training images (epochs)")
    batch_size: int = setting(100, "images per optimiser step, over all processes and accumulated pieces (images)")
    accumulate: int = setting(1, "pieces each process cuts its share of a batch into, to save memory (pieces)")
    optimizer: str = setting("sgd", "sgd, adamw, or any optimiser of timm by name")
    lr: float = setting(0.1, "learning rate after warm-up (per step)")
    lr_min: float = setting(0.0, "learning rate at the end of the cosine (per step)")
    block_lr_min: float = setting(-1.0, "learning rate of a mix block at the end of the cosine (-1: that of lr_min)")
    warmup: float = setting(0.0, "linear warm-up from zero (epochs; at most half of the run)")
    momentum: float = setting(0.9, "momentum of SGD (0 to 1)")
    weight_decay: float = setting(1e-4, "weight decay (per step, times the learning rate)")
    decay_all: bool = setting(True, "decay biases, norms and embeddings too, as the CIFAR recipes do (true or false)")
    clip: float = setting(0.0, "largest gradient norm (L2; 0 = no clipping)")
    ema: float = setting(0.0, "decay of the moving average of the weights, such as 0.999 (per step; 0 = none)")
    seed: int = setting(0, "seed of initialisation, order, augmentation and mixing (integer)")
    # on what
    device: str = setting("auto", "auto, cpu, cuda, cuda:1, mps (device)")
    precision: str = setting("fp32", "fp32, bf16 or fp16 (arithmetic of the forward pass)")
    compile: bool = setting(False, "compile the network with torch.compile (true or false)")
    channels_last: bool = setting(False, "keep images channels-last in memory (true or false)")
    threads: int = setting(0, "threads of the arithmetic on a CPU (threads; 0 = torch's choice)")
    workers: int = setting(0, "processes that read folder images (processes; 0 = read in the training process)")
    # what is kept
    val_every: int = setting(1, "epochs between validations; the last ten are always validated (epochs)")
    save_every: int = setting(1, "epochs between checkpoints; the last is always kept (epochs)")

    def __post_init__(self) -> None:
        for name in ("image_size", "epochs", "batch_size", "accumulate", "val_every", "save_every"):
            self._expect(name, getattr(self, name) >= 1, "at least 1")
        for name in ("subset", "crop", "lr", "lr_min", "warmup", "weight_decay", "clip", "seed", "threads", "workers"):
            self._expect(name, getattr(self, name) >= 0, "not negative")
        for name in ("momentum", "ema"):
            self._expect(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        self._expect("val_split", 0 <= self.val_split <= 0.9, "between 0 and 0.9")
        for name in ("scale", "eval_crop"):
            self._expect(name, 0 < getattr(self, name) <= 1, "above 0 and at most 1")
        self._expect("erasing", 0 <= self.erasing <= 1, "between 0 and 1")
        self._expect("crop", self.crop < self.image_size, f"smaller than image_size {self.image_size}")
        self._expect("precision", self.precision in PRECISIONS, "one of " + ", ".join(PRECISIONS))

    def _expect(self, name: str, good: bool, expected: str) -> None:
        if not good:
            raise RunError(f"{name} must be {expected}, and is {getattr(self, name)!r}")

    @classmethod
    def types(cls) -> dict[str, type]:
        """Return the type of every field, in order."""
        hints = get_type_hints(cls)
        return {field.name: hints[field.name] for field in dataclasses.fields(cls)}

    def json(self) -> str:
        """Return the settings as text that ``read`` understands."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def read(cls, text: str) -> Config:
        """Return the settings that ``json`` wrote; a field that is missing takes its default.

        Raises:
            RunError: the text is no JSON object, or a field is unknown or of the wrong type.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise RunError(f"the config is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise RunError(f"the config must be a JSON object of settings, and is {type(values).__name__}")
        return cls(**{name: cls._checked(name, value) for name, value in values.items()})

    @classmethod
    def _checked(cls, name: str, value: Any) -> Any:
        types = cls.types()
        if name not in types:
            raise RunError(f"the config has an unknown field {name!r}{nearest(name, types)}")
        kind = types[name]
        if kind is float and type(value) is int:
            return float(value)
        if type(value) is not kind:
            raise RunError(f"{name} must be of type {kind.__name__}, and is {value!r}")
        return value

    def differences(self, other: Config) -> list[str]:
        """Name the settings in which two configs differ, as ``"lr is 0.1, not 0.2"``."""
        names = (field.name for field in dataclasses.fields(self))
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in names]
        return [f"{name} is {mine!r}, not {theirs!r}" for name, mine, theirs in pairs if mine != theirs]
