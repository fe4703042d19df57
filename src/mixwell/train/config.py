"""The settings of a training run, each with its type and unit."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, ClassVar, get_type_hints

from mixwell.train.errors import RunError, closest
from mixwell.train.files import parsed

PRECISIONS = ("fp32", "bf16", "fp16")
BAD_IMAGES = ("stop", "skip")
TRACKERS = ("", "wandb", "mlflow", "trackio")
LIMITS: dict[str, tuple[float, float]] = {  # smallest and largest value; of all other numbers 0 and a billion
    **dict.fromkeys(("epochs", "batch_size", "accumulate", "val_every", "save_every"), (1, 10**9)),
    **dict.fromkeys(("momentum", "ema", "scale", "eval_crop", "erasing"), (0, 1)),
    **dict.fromkeys(("threads", "workers"), (0, 1024)),
    "image_size": (1, 16384),
    "eval_size": (0, 16384),
    "repeats": (1, 100),
    "val_split": (0, 0.9),
    "block_lr_min": (-1, 10**9),
    "seed": (0, 2**63 - 1),
}


def setting(default: Any, text: str) -> Any:
    """Return a dataclass field with the text that ``--help`` shows."""
    return dataclasses.field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of a run; two runs with equal settings on the same machine give the same numbers.

    Raises:
        RunError: A value is out of range; the message names the field.

    Example:
        >>> Config.read(Config(epochs=3).json()) == Config(epochs=3)
        True
    """

    # In a resumed run.
    MAY_CHANGE: ClassVar = frozenset({"bad_images", "data", "device", "threads", "workers", "save_every", "tracker"})

    recipe: str = setting("custom", "name of the recipe that the other values come from")
    # data
    dataset: str = setting(
        "digits",
        "digits, cifar10, cifar100, folder, csv, aircraft, cars, cub200, inaturalist, places205, tiny_imagenet, "
        "huggingface, huggingface_stream, webdataset or litdata",
    )
    data: str = setting("", "folder or CSV file of the data set (path; digits needs none)")
    subset: int = setting(0, "number of training images used, the same share of each class (images; 0 = all)")
    val_split: float = setting(
        0.0, "share of each class's training images held out for validation (0 to 0.9; 0 = use val or test images)"
    )
    bad_images: str = setting("stop", "images that cannot be read: stop, or skip and list them (stop or skip)")
    image_size: int = setting(32, "height and width of the network's input; images are resized to it (pixels)")
    crop: int = setting(0, "random shift of in-memory images, reflected at the border (pixels)")
    scale: float = setting(0.08, "smallest area of a random resized crop (share of the image, 0 to 1)")
    eval_size: int = setting(0, "height and width of images in evaluation (pixels; 0 = image_size)")
    eval_crop: float = setting(0.875, "center crop in evaluation of folder images (share of the side, 0 to 1)")
    flip: bool = setting(False, "flip training images horizontally with probability 1/2 (true or false)")
    augment: str = setting("", "RandAugment as timm writes it, such as rand-m9-mstd0.5-inc1 (expression)")
    erasing: float = setting(0.0, "probability of random erasing with noise (0 to 1)")
    repeats: int = setting(1, "repeated augmentation: copies of an image per epoch; as many fewer images (copies)")
    # model and method
    model: str = setting(
        "mini_resnet",
        "resnet18, resnext50_32x4d, wide_resnet28_8, mini_resnet (of 32 pixels), pvt_tiny, pvt_small, moganet_tiny (of "
        "224 pixels), timm/NAME[(SETTING=VALUE)]",
    )
    weights: str = setting("", "pretrained weights to start from (path of a .safetensors or .pth file, or timm/TAG)")
    policy: str = setting("none", "mixing policy, such as 'CutMix(alpha=0.2)', or none (expression)")
    method: str = setting("Mixing", "training method, such as SUMix or 'SUMix(gamma=1.0)' (expression)")
    loss: str = setting("", "loss, such as 'CrossEntropy(smoothing=0.1)' (expression; default: that of the method)")
    # optimization
    epochs: int = setting(10, "passes over the training images (epochs)")
    batch_size: int = setting(100, "images per optimiser step, over all processes and accumulated pieces (images)")
    accumulate: int = setting(1, "gradient accumulation: forward passes per process and step (pieces)")
    optimizer: str = setting("sgd", "sgd, adamw, or any optimiser of timm by name")
    lr: float = setting(0.1, "learning rate after warm-up (per step)")
    lr_min: float = setting(0.0, "learning rate at the end of the cosine (per step)")
    block_lr_min: float = setting(-1.0, "learning rate of a mix block at the end of the cosine (-1: that of lr_min)")
    warmup: float = setting(0.0, "linear warm-up of the learning rate (epochs; at most half of the run)")
    momentum: float = setting(0.9, "momentum of SGD (0 to 1)")
    weight_decay: float = setting(1e-4, "weight decay (per step, times the learning rate)")
    decay_all: bool = setting(True, "weight decay also on biases, norms and embeddings (true or false)")
    clip: float = setting(0.0, "gradient clipping: largest L2 norm (0 = no clipping)")
    ema: float = setting(0.0, "EMA decay of the weights, such as 0.999 (per step; 0 = no EMA)")
    seed: int = setting(0, "random seed of initialization, order, augmentation and mixing (integer)")
    # hardware
    device: str = setting("auto", "auto, cpu, cuda, cuda:1, mps (device)")
    precision: str = setting("fp32", "fp32, bf16 or fp16 (autocast of the forward pass)")
    compile: bool = setting(False, "compile the network with torch.compile (true or false)")
    channels_last: bool = setting(False, "channels-last memory format (true or false)")
    shard: bool = setting(False, "FSDP2: shard weights and optimizer state over the processes (true or false)")
    threads: int = setting(0, "CPU threads of torch (threads; 0 = torch's default)")
    workers: int = setting(0, "data-loader workers (processes; 0 = load in the training process)")
    # validation and checkpoints
    val_every: int = setting(1, "epochs between validations; the last ten epochs are always validated (epochs)")
    save_every: int = setting(1, "epochs between checkpoints; the last epoch is always saved (epochs)")
    tracker: str = setting("", "log the metrics to wandb, mlflow or trackio too (default: nothing is sent anywhere)")

    def __post_init__(self) -> None:
        for name, kind in self.types().items():
            if kind in (int, float):
                (low, high), value = LIMITS.get(name, (0, 10**9)), getattr(self, name)
                self._expect(name, value >= low or value < low, "a number")  # NaN is neither
                self._expect(name, value >= low, f"at least {low}")
                self._expect(name, value <= high, f"at most {high}")
        for name in ("momentum", "ema"):
            self._expect(name, getattr(self, name) < 1, "at least 0 and below 1")
        for name in ("scale", "eval_crop"):
            self._expect(name, getattr(self, name) > 0, "above 0 and at most 1")
        self._expect(
            "eval_crop", self.eval_crop >= 0.01, "at least 0.01"
        )  # images are enlarged to eval_size / eval_crop
        self._expect("crop", self.crop < self.image_size, f"smaller than image_size {self.image_size}")
        self._expect("bad_images", self.bad_images in BAD_IMAGES, "one of " + ", ".join(BAD_IMAGES))
        self._expect("tracker", self.tracker in TRACKERS, f"one of {', '.join(TRACKERS[1:])}, or empty")
        self._expect("lr_min", self.lr_min <= self.lr, f"at most lr {self.lr}")
        self._expect("precision", self.precision in PRECISIONS, "one of " + ", ".join(PRECISIONS))

    def _expect(self, name: str, good: bool, expected: str) -> None:
        if not good:
            raise RunError(f"{name} must be {expected}, but is {getattr(self, name)!r}")

    @property
    def evaluation_size(self) -> int:
        """Height and width of images in evaluation (pixels)."""
        return self.eval_size or self.image_size

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
        """Return the settings that ``json`` wrote; a missing field takes its default.

        Raises:
            RunError: The text is not a JSON object, or a field is unknown, of the wrong type or out of range.
        """
        return cls(**{name: cls.checked(name, value) for name, value in parsed(text, "the config").items()})

    @classmethod
    def checked(cls, name: str, value: Any) -> Any:
        types = cls.types()
        if name not in types:
            raise RunError(f"the config has an unknown field {name!r}{closest(name, types)}")
        kind = types[name]
        if kind is float and type(value) is int and abs(value) < 2**63:
            return float(value)
        if type(value) is not kind:
            raise RunError(f"{name} must be of type {kind.__name__}, but is {value!r}")
        return value

    def differences(self, other: Config) -> list[str]:
        """Return the settings in which two configs differ, as ``"lr is 0.1, not 0.2"``."""
        names = (field.name for field in dataclasses.fields(self))
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in names]
        return [f"{name} is {mine!r}, not {theirs!r}" for name, mine, theirs in pairs if mine != theirs]

    def fixed_differences(self, other: Config) -> list[str]:
        """Return the differences in settings that a resumed run cannot change."""
        return [text for text in self.differences(other) if text.split()[0] not in self.MAY_CHANGE]
