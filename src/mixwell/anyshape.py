"""Policies of images for signals, volumes and video."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from mixwell.batch import MixedBatch
from mixwell.policies import CutMix, FMix, MixUp
from mixwell.policy import BatchPolicy, NoMix, Policy


class AnyShape:
    """A policy for inputs with one or three dimensions beside batch and channels.

    * Signals ``(B, C, T)``, such as audio or an ECG, are mixed as images of one row: by ``MixUp``, ``FMix``, and
      ``CutMix``, which pastes an interval.
    * Volumes ``(B, C, D, H, W)``, and video ``(B, T, C, H, W)`` or ``(B, C, T, H, W)``, are mixed with one mask or box
      for all slices or frames, by any policy that does not look for salient regions.
    * Images ``(B, C, H, W)`` are mixed as usual.

    Labels and weights are those of the policy; ``plan.share(plan.size)`` is the mask of one row, or of one slice.

    Args:
        policy: The policy, or a composition by ``OneOf``, ``Sometimes`` or ``Switch``.

    Raises:
        TypeError: The policy is not a policy.
        ValueError: When called: the input has another number of dimensions, or the policy cannot mix it.

    Example:
        >>> import torch
        >>> mix = AnyShape(CutMix(box="inside", match_area=True))
        >>> mix(torch.rand(4, 2, 100), torch.arange(4)).images.shape
        torch.Size([4, 2, 100])
        >>> mix(torch.rand(4, 3, 5, 8, 8), torch.arange(4)).images.shape
        torch.Size([4, 3, 5, 8, 8])
    """

    def __init__(self, policy: BatchPolicy) -> None:
        if not isinstance(policy, BatchPolicy):
            raise TypeError(f"policy must be an object such as CutMix(), but got {policy!r}.")
        self.policy = policy

    def __repr__(self) -> str:
        return f"AnyShape({self.policy!r})"

    def __call__(self, inputs: Tensor, labels: Tensor, **settings: Any) -> MixedBatch:
        """Mix a batch.

        Args:
            inputs: Shape ``(B, C, T)``, ``(B, C, H, W)`` or ``(B, C, D, H, W)``, floating point or uint8.
            labels: Class indices ``(B,)`` or dense labels ``(B, N)``.
            settings: See :meth:`mixwell.BatchPolicy.__call__`; a ``model`` is ignored where shapes are changed.
        """
        if inputs.dim() == 4:
            return self.policy(inputs, labels, **settings)
        if inputs.dim() not in (3, 5):
            raise ValueError(
                f"inputs must have shape (B, C, T), (B, C, H, W) or (B, C, D, H, W), but got {tuple(inputs.shape)}."
            )
        for part in _parts(self.policy):
            _check(part, signal=inputs.dim() == 3)
        settings.pop("model", None)
        as_images = inputs.unsqueeze(2) if inputs.dim() == 3 else inputs.flatten(1, 2)
        mixed = self.policy(as_images, labels, **settings)
        return MixedBatch(mixed.images.reshape(inputs.shape), mixed.labels, mixed.weights, mixed.plan)


def _parts(policy: BatchPolicy) -> Iterator[BatchPolicy]:
    """Yield the policies that a composition holds, or the policy itself."""
    inner = getattr(policy, "policies", getattr(policy, "policy", None))
    if inner is None:
        yield policy
        return
    for part in inner.values() if isinstance(inner, Mapping) else inner if isinstance(inner, tuple) else (inner,):
        yield from _parts(part)


def _check(policy: BatchPolicy, signal: bool) -> None:
    if isinstance(policy, Policy) and policy.uses_saliency:
        raise ValueError(f"{policy} looks for salient regions of images: use MixUp(), CutMix() or FMix() here.")
    if not signal or isinstance(policy, MixUp | FMix | NoMix):
        return
    if not isinstance(policy, CutMix):
        raise ValueError(f"{policy} places regions with height and width: use MixUp(), CutMix() or FMix() for signals.")
    if policy.minmax is not None or policy.box != "inside" or not policy.match_area:
        raise ValueError(
            'CutMix pastes intervals of a signal with CutMix(box="inside", match_area=True): other settings lose the '
            f"only row, but got {policy}."
        )
