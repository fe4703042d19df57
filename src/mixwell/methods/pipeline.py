"""The momentum pipeline: a student that learns, a teacher that follows it, and a mix block between them."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.hooks import unserializable_hook

from mixwell.batch import MixedBatch
from mixwell.features.hooks import frozen_statistics
from mixwell.features.maps import MapTap, channels_of
from mixwell.methods.method import check_policy
from mixwell.methods.twoheads import TwoHeads
from mixwell.mixers.mixblock import BlockSettings
from mixwell.mixers.predictor import Seer
from mixwell.mixers.teacher import BUFFERS, Momentum, Schedule, at, copy_of, follow
from mixwell.plan import Plan
from mixwell.policies import MixUp
from mixwell.policy import BatchPolicy
from mixwell.step_guard import all_finite, flat, leave_out, restore, running_statistics


class MomentumPipeline(TwoHeads):
    """What AutoMix and its successors share; not used by itself.

    The teacher is a moving average of the student. The block reads the teacher's features and is trained through it,
    with masks that the student is then trained on without a graph between them.

    Args:
        model: The classifier, which becomes the student.
        policy: Who is mixed with whom, and how much; where the pixels go, the block decides.
        block: Settings of the block.
        layer: Layer whose map the block reads, as ``model.named_modules()`` calls it; ``None`` takes the last stage but
            one, or the middle block of a transformer.
        channels: Channels of that map, where they cannot be told.
        margin: Ratios this near to 0 or 1 train the student on plain MixUp, in [0, 1/2].
        label: ``"nominal"``: labels follow the wanted ratio, as published; ``"area"``: they follow the masks.
        momentum: How much of the teacher survives a step, a number or a schedule.
        buffers: Batch-norm statistics of the teacher: its own (``"keep"``, as published), or the student's,
            ``"average"`` or ``"copy"``; with these two its passes do not move them.
        ship: Which of the two is ``method.model``, to be evaluated and shipped: ``"student"`` or ``"teacher"``.
        generator_every: Train the block through the teacher only every so many steps.
        switch_off: Train it so only with this probability, a number or a schedule; 0 always does, as 1 does.
        teacher_dropout: Whether dropout and stochastic depth are active in the teacher too, as published.
        block_group: Settings of the block's parameter group, such as ``{"lr": 0.1, "lr_min": 0.001, "momentum": 0.0}``;
            ``lr_min``, where its rate ends, is for the training program.
        heads: Settings of :class:`TwoHeads`.

    Raises:
        ValueError: A setting is unknown or out of range, or there is no layer to tap.
    """

    def __init__(
        self,
        model: nn.Module,
        policy: BatchPolicy | None,
        block: BlockSettings,
        *,
        layer: str | None = None,
        channels: int | None = None,
        margin: float = 0.0,
        label: str = "nominal",
        momentum: float | Schedule = Momentum(),
        buffers: str = "keep",
        ship: str = "student",
        generator_every: int = 1,
        switch_off: float | Schedule = 0.0,
        teacher_dropout: bool = True,
        block_group: Mapping[str, Any] | None = None,
        **heads: Any,
    ) -> None:
        _check(margin, label, buffers, ship, generator_every)
        _check_schedules(momentum, switch_off, dict(block_group or {}))
        teacher = copy_of(model) if isinstance(model, nn.Module) else model  # before taps are set on the original
        super().__init__(model, **heads)
        self.policy = MixUp(alpha=2.0) if policy is None else policy
        check_policy(self.policy)
        self.margin, self.label, self.momentum, self.buffers_as = margin, label, momentum, buffers
        self.generator_every, self.switch_off, self.teacher_dropout = generator_every, switch_off, teacher_dropout
        self.block_group = dict(block_group or {})
        self.ships_teacher = ship == "teacher"
        self.model, self.other = (teacher, model) if self.ships_teacher else (model, teacher)
        self.teacher_second = None if self.second is None else self.second.teacher(teacher)
        self.tap = MapTap(teacher, layer)
        self.block = block.build(channels_of(teacher, self.tap.name) if channels is None else channels)
        self.progress, self.steps = 0.0, 0
        self._finite = self._good = torch.ones((), dtype=torch.bool)
        self._before: list[Tensor] | None = None
        self.take_turns()
        self._guard()

    @property
    def student(self) -> nn.Module:
        """The classifier in training."""
        return self.other if self.ships_teacher else self.model

    @property
    def teacher(self) -> nn.Module:
        """Its moving average."""
        return self.model if self.ships_teacher else self.other

    def train(self, mode: bool = True) -> MomentumPipeline:
        """See :meth:`torch.nn.Module.train`; the teacher's dropout stays asleep where it is told to."""
        super().train(mode)
        if not self.teacher_dropout:
            for module in self.teacher.modules():
                if isinstance(module, _DropoutNd) or type(module).__name__.startswith("Drop"):
                    module.training = False
        return self

    def before_step(self, optimizer: Any) -> None:
        """Have the optimiser leave everything as it is where the loss or a gradient is no number in any process.

        The device decides. torch's fused optimisers skip the step; others take one with no gradient. With a
        ``GradScaler``, which leaves out steps by itself, do not call this.
        """
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        self._good = all_finite(gradients, self._good)
        leave_out(getattr(optimizer, "optimizer", optimizer), gradients, self._good)

    def after_step(self, progress: float) -> None:
        """See :meth:`Method.after_step`: the teacher follows the student."""
        super().after_step(progress)
        if self._before is not None:
            restore(running_statistics(self), self._before, self._good)
            self._before = None
        momentum = at(self.momentum, self.progress)
        follow(self.teacher, self.student, momentum, self.buffers_as)
        if self.second is not None and self.teacher_second is not None:
            follow(self.teacher_second.layer, self.second.layer, momentum, self.buffers_as)
        self.progress, self.steps = progress, self.steps + 1
        self.take_turns()

    def seer(self) -> Seer:
        """See :meth:`Method.seer`."""
        return Seer(self.block, self.teacher, self.tap)

    def param_groups(self) -> list[dict[str, Any]]:
        """See :meth:`Method.param_groups`: the classifier, then the block with settings of its own."""
        own = {id(p) for p in self.block.parameters()}
        student = [p for p in self.parameters() if p.requires_grad and id(p) not in own]
        return [{"params": student}, {"params": list(self.block.parameters()), **self.block_group}]

    def get_extra_state(self) -> Tensor:
        """Return how far the training is, for its schedules to go on after a break."""
        return torch.tensor([self.progress, self.steps], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Take up a training where it was left."""
        self.progress, self.steps = float(state[0]), int(state[1])
        self.take_turns()

    def take_turns(self) -> None:
        """Decide what the count of steps decides; a compiled step that read the count would hold for one step only."""
        self.generates = self.steps % self.generator_every == 0

    def generator_on(self) -> bool:
        """Decide whether this step trains the block through the teacher."""
        if not self.generates:
            return False
        share = at(self.switch_off, self.progress)
        return share in (0, 1) or float(torch.rand(())) < share

    @contextmanager
    def teaching(self, grad: bool = False) -> Iterator[None]:
        """Run the teacher, with a graph only if one leads through it to the block."""
        still = nullcontext() if self.buffers_as == "keep" else frozen_statistics(self.teacher)
        with torch.set_grad_enabled(grad and torch.is_grad_enabled()), still:
            yield

    def ask(self, images: Tensor) -> Tensor:
        """Return the teacher's logits for mixed images."""
        return self.predict(self.teacher, self.teacher_second, images, "mixed")

    def named(self, plan: Plan, images: Tensor, labels: Tensor, lam: Tensor) -> MixedBatch:
        """Mix images by a plan and label them, by the wanted shares ``(B, K)`` or by what was mixed."""
        weights = lam if self.label == "nominal" else plan.weights.detach()
        return MixedBatch(plan.apply(images), plan.source_labels(labels), weights, plan)

    def remember(self) -> None:
        """Keep the batch-norm statistics for the case that this step is left out; call this first."""
        if self._before is None and torch.is_grad_enabled():  # a step may come in several pieces
            self._before = flat(running_statistics(self))
            self._good = torch.ones_like(self._finite)

    def safe(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Make a step whose loss is no number a step of no gradient, without waiting for the device to say so."""
        self._finite = torch.isfinite(terms["loss"].detach())
        if torch.is_grad_enabled():
            self._good = self._good.to(self._finite.device, non_blocking=True) & self._finite
        loss = torch.where(self._finite, terms["loss"], 0.0)
        return terms | {"loss": loss, "skipped": 1 - self._finite.float()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._guard()  # hooks on parameters are neither copied nor stored

    def _guard(self) -> None:
        # A loss that is masked at its end still sends 0 * inf back into the weights: their gradients are masked
        # instead.
        for parameter in self.parameters():
            if parameter.requires_grad:
                parameter.register_hook(unserializable_hook(partial(_or_nothing, self)))


def _or_nothing(method: MomentumPipeline, gradient: Tensor) -> Tensor:
    finite = method._finite.to(gradient.device, non_blocking=True)
    return torch.where(finite, gradient, torch.zeros((), dtype=gradient.dtype, device=gradient.device))


def _check(margin: float, label: str, buffers: str, ship: str, generator_every: int) -> None:
    if not 0 <= margin <= 0.5:
        raise ValueError(f"margin must lie in [0, 0.5], but got {margin}.")
    for name, value, known in (
        ("label", label, ("nominal", "area")),
        ("buffers", buffers, BUFFERS),
        ("ship", ship, ("student", "teacher")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, but got {value!r}.")
    if generator_every < 1:
        raise ValueError(f"generator_every must be at least 1, but got {generator_every}.")


def _check_schedules(momentum: float | Schedule, switch_off: float | Schedule, block_group: dict[str, Any]) -> None:
    for name, value in (("momentum", momentum), ("switch_off", switch_off)):
        if not all(0 <= at(value, progress) <= 1 for progress in (0.0, 1.0)):
            raise ValueError(f"{name} must lie in [0, 1], but got {value}.")
    for name, value in block_group.items():
        number = name in ("lr", "lr_min", "momentum", "weight_decay")
        if name == "params" or (number and not (isinstance(value, numbers.Real) and 0 <= float(value) < math.inf)):
            raise ValueError(f"block_group must hold settings of the optimiser from 0 on, but got {name}={value!r}.")
