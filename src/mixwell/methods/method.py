"""The base of all methods: a module that owns the classifier and computes the loss of one training step."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import wraps
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from mixwell.batch import MixedBatch, Pairs, hits
from mixwell.features.attention import AttentionHook
from mixwell.features.observer import Observer
from mixwell.features.passes import FeatureHook, clean_pass, logits_of, reading
from mixwell.labels import Boxes, LabelPolicy, View
from mixwell.losses.softmax import check_shape, without
from mixwell.methods.groups import split_decay
from mixwell.methods.loop import PASSES, STEPS, Loop, after_optimizer_step, hooks, watched
from mixwell.mixers.predictor import MaskPredictor
from mixwell.normalization import Normalization
from mixwell.plan import BlendPlan, Plan
from mixwell.policy import BatchPolicy, simple_policies
from mixwell.typecheck import checked
from mixwell.value import at

LossFunction = Callable[[Tensor, MixedBatch], Tensor]
Output = dict[str, Tensor]  # of a training step: loss, output and scalars to log
Part = TypeVar("Part", bound=nn.Module)


class Method(nn.Module, ABC):
    """A training step around a classifier; ``method.model`` is the classifier to evaluate and ship.

    Calling a method always runs a training step: in eval mode, too, it mixes and returns a loss.

    Args:
        model: The classifier, images ``(B, C, H, W)`` to logits ``(B, N)`` or to an output with the attribute
            ``logits``.
        policy: The sample policy, or any callable with the same arguments.
        label: The label policy.
        loss: The loss, ``(logits, mixed) -> scalar``.
        normalization: How the images were normalized; None means that they are in [0, 1].
        calls: Name of the method of the policy that the step calls.
        settings: Further settings, which become attributes: numbers, or schedules of them.

    Raises:
        TypeError: The model is not an ``nn.Module``, or the policy cannot mix.
        ValueError: The policy mixes more than two sources, but the method or its label policy needs two.
    """

    two_sources: ClassVar[bool] = False  # True in methods that cannot use a policy that mixes more
    needs_after_step: ClassVar[bool] = False  # True in methods with a teacher; schedules are found among the settings

    policy: BatchPolicy  # these and all other settings hold the numbers of the current progress
    label: LabelPolicy
    loss: LossFunction

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):  # settings are checked against their annotations; a policy may be any callable
            cls.__init__ = _checking(cls.__init__)

    def __init__(
        self,
        model: nn.Module,
        policy: BatchPolicy,
        label: LabelPolicy,
        loss: LossFunction,
        normalization: Normalization | None = None,
        *,
        calls: str = "__call__",
        **settings: Any,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module) or isinstance(model, Method):
            advice = ": give it the classifier, method.model" if isinstance(model, Method) else ""
            raise TypeError(f"model must be an nn.Module, but got {type(model).__name__}{advice}.")
        if isinstance(policy, type) or not callable(getattr(policy, calls, None)):
            raise TypeError(
                f"policy must be an object such as CutMix(alpha=0.2) with the method {calls}, but got {policy!r}."
            )
        if self.two_sources or label.two_sources:
            _check_sources(policy, type(self).__name__ if self.two_sources else repr(label))
        self.model, self.normalization, self.progress = model, normalization, 0.0
        self._schedules: dict[str, Any] = {}
        self._loop = Loop()
        self.set_current(policy=policy, label=label, loss=loss, **settings)
        self.observer = Observer(model, label.needs)
        self.on_clean, self.on_mixed = self.observer.on_clean, self.observer.on_mixed

    def set_current(self, **settings: Any) -> None:
        """Set attributes to the numbers that hold now; after each step, those with schedules are set again."""
        self._schedules |= {name: value for name, value in settings.items() if at(value, 0.0) is not value}
        for name, value in settings.items():
            setattr(self, name, at(value, self.progress))

    @abstractmethod
    def forward(self, images: Tensor, labels: Tensor, *, masks: Tensor | None = None, boxes: Boxes = None) -> Output:
        """Compute the loss of one training step.

        Args:
            images: Shape ``(B, C, H, W)``, floating point.
            labels: Class indices ``(B,)``, int64, or dense labels ``(B, N)``.
            masks: Objects in the images, for :class:`mixwell.ObjectShare`; other label policies do not read them.
            boxes: Their bounding boxes instead, see :class:`mixwell.ObjectShare`.

        Returns:
            ``{"loss": scalar, "output": logits (B, N), "accuracy": scalar, ...}``. Everything but the loss and the
            output is a scalar to log, without gradient.
        """

    def after_step(self, progress: float) -> None:
        """Update schedules and teachers; call this once after every optimizer step.

        Args:
            progress: Share of the training that is done, in [0, 1].

        Raises:
            TypeError: The progress is not a number.
            ValueError: The progress is out of range.
        """
        expected = "progress must be the share of the training that is done, a number in [0, 1]"
        try:
            inside = bool(0 <= progress <= 1)
        except (TypeError, ValueError, RuntimeError):  # text, None, an array or tensor of several numbers
            raise TypeError(f"{expected}, but got {progress!r}.") from None
        if not inside:
            raise ValueError(f"{expected}, but got {progress}.")
        self.progress = float(progress)
        if self._schedules:
            self.set_current(**self._schedules)
        if self._loop.told <= STEPS:
            self._loop.told += 1
            self._watch()

    def seen(self, images: Tensor, labels: Tensor, masks: Tensor | None, boxes: Boxes) -> dict[str, Any]:
        """Return what a label policy may read besides the mixed images; see :class:`mixwell.labels.View`.

        A label policy that reads predictions or features of the unmixed images costs one forward pass, without gradient
        and without an update of batch-norm statistics.
        """
        # Until torch 2.7, the compiler does not trace the union of two dicts, as in fields | more.
        fields = {"images": images, "labels": labels, "masks": masks, "boxes": boxes, **self.policy_arguments}
        if self.observer.needs_clean_pass:
            with clean_pass(self.model), reading(self.on_clean):
                fields["clean_logits"] = logits_of(self.model(images))
        return fields

    def weighted(
        self, mixed: MixedBatch, logits: Tensor, fields: dict[str, Any], observer: Observer | None = None
    ) -> MixedBatch:
        """Return a mixed batch with the label weights of the label policy.

        Args:
            mixed: The mixed batch.
            logits: Logits of the mixed images, from a pass inside ``on_mixed`` of the observer.
            fields: What :meth:`seen` returns, from a pass over the unmixed images inside ``on_clean`` if one is needed.
            observer: What watched both passes; None is that of the classifier.
        """
        if self.label.needs:
            observer = self.observer if observer is None else observer
            fields = {**fields, **observer.clean_fields(fields["images"]), **observer.mixed_fields(mixed.images)}
        return relabelled(mixed, self.label, logits, fields)

    def step_output(self, loss: Tensor, output: Tensor, mixed: MixedBatch, **logged: Tensor) -> Output:
        """Return what a training step returns: loss, output, training accuracy, and scalars to log without gradient.

        The accuracy is :func:`mixwell.mixed_accuracy`, in percent: the label weight of the predicted class.
        """
        counts = not torch.compiler.is_compiling() and not self._loop.told and self._loop.passes <= PASSES
        if counts and self.training and loss.requires_grad:
            self._count_pass()
        predicted = output.detach().argmax(1, keepdim=True)
        right = mixed.labels == predicted if mixed.labels.dim() == 2 else hits(predicted, mixed.labels)[..., 0]
        accuracy = 100 * (mixed.weights * right).sum(1).mean()
        ignored = getattr(self.loss, "ignore_index", None)
        left = None if ignored is None else without(mixed, ignored)[1]
        accuracy = accuracy if left is None else accuracy / left.clamp_min(1e-6)
        results = {"loss": loss, "output": output, "accuracy": accuracy}
        for name, value in logged.items():
            results[name] = value.detach()
        return results

    def _count_pass(self) -> None:
        """Warn once, after some forward passes without a call of ``after_step``, where something depends on it."""
        self._loop.passes += 1
        self._watch()
        if self._loop.steps < STEPS and self._loop.passes <= PASSES:
            return
        if self.needs_after_step or self._schedules:
            warnings.warn(
                f"{type(self).__name__} has run {self._loop.passes - 1} training steps without a call of after_step: "
                "its schedules stay at their first number, and a teacher does not follow the model. Call "
                "method.after_step(progress) after every optimizer step, with progress in [0, 1].",
                stacklevel=6,
            )
        self._loop.passes = PASSES + 1

    def _watch(self) -> None:
        """Watch the first optimizer steps of the training loop, and stop once they are done."""
        if self._loop.steps < STEPS:
            watched.add(self)
            if not hooks:
                hooks.append(register_optimizer_step_post_hook(after_optimizer_step))
            return
        watched.discard(self)
        if hooks and not watched:
            hooks.pop().remove()

    @property
    def policy_arguments(self) -> dict[str, Any]:
        """The arguments of a policy besides images and labels: the model, and the normalization if there is one."""
        known = {} if self.normalization is None else {"normalization": self.normalization}
        return {"model": self.model, **known}

    def mask_predictor(self) -> MaskPredictor | None:
        """Return the mix block that this method trains, with the network whose features it reads, or None."""
        return None

    def param_groups(self, weight_decay: float | None = None) -> list[dict[str, Any]]:
        """Return the trainable parameters for an optimizer, those of the method's own parts included.

        Args:
            weight_decay: Weight decay of weights. Norms, biases and what ``model.no_weight_decay()`` names get 0. None
                leaves the weight decay to the optimizer.

        Example:
            >>> from mixwell import Mixing
            >>> groups = Mixing(nn.Linear(2, 2)).param_groups(weight_decay=0.05)
            >>> [(group["weight_decay"], [tuple(p.shape) for p in group["params"]]) for group in groups]
            [(0.05, [(2, 2)]), (0.0, [(2,)])]
        """
        return split_decay([{"params": [p for p in self.parameters() if p.requires_grad]}], weight_decay, self.model)

    def close(self) -> None:
        """Remove all hooks of the method from the model; only a compiled model has any outside of a step."""
        for module in self.modules():
            for value in vars(module).values():
                for hook in value.values() if isinstance(value, dict) else (value,):
                    if isinstance(hook, FeatureHook | AttentionHook):
                        hook.close()

    def get_extra_state(self) -> Tensor:
        """Return the progress, which belongs to the state of a method: a resumed training continues its schedules."""
        return torch.tensor(self.progress, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the progress."""
        self.progress = float(state)
        self.set_current(**self._schedules)


def _checking(init: Callable[..., None]) -> Callable[..., None]:
    @wraps(init)
    def checking(self: Method, *args: Any, **kwargs: Any) -> None:
        settings = {name: value for name, value in kwargs.items() if name not in ("model", "policy")}
        init(self, *args, **{**kwargs, **checked(self, settings, init)})

    return checking


def _check_sources(policy: BatchPolicy, user: str) -> None:
    """Raise if a policy, or one that it holds, mixes more than two sources."""
    inside = simple_policies(policy) if isinstance(policy, BatchPolicy) else []
    if several := [each for each in inside if not each.two_sources]:
        raise ValueError(f"{user} needs images of two sources, but {several[0]} mixes more: use another policy.")


def relabelled(mixed: MixedBatch, label: LabelPolicy, logits: Tensor, fields: dict[str, Any]) -> MixedBatch:
    """Return a mixed batch with the weights of a label policy that reads the logits and further fields of a view."""
    if label.needs:
        check_shape(logits, mixed)
    return mixed.with_weights(label.__call__(mixed, View(logits.detach(), **fields)))


def mix(plan: Plan, images: Tensor, labels: Tensor) -> MixedBatch:
    """Return the batch that a plan mixes; its label weights, the shares of the pixels, have no gradient."""
    return MixedBatch(plan.apply(images), plan.source_labels(labels), plan.weights.detach(), plan)


def unmixed(images: Tensor, labels: Tensor) -> MixedBatch:
    """Return a batch in which every image keeps its own label, for the losses of mixed batches."""
    rows, ones = torch.arange(len(images), device=images.device), torch.ones(1, device=images.device)
    plan = BlendPlan(Pairs(rows, ones, (images.shape[2], images.shape[3])))
    return MixedBatch(images, plan.source_labels(labels), plan.weights, plan)


def like_model(part: Part, model: nn.Module) -> Part:
    """Move a new part to the device and floating-point type of the model's parameters."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    return part if weight is None else part.to(weight.device, weight.dtype)
