"""Policies of images for signals, volumes and video."""

from __future__ import annotations

import math
from dataclasses import field

import torch
from torch import Tensor

from mixwell.batch import Batch, MixedBatch
from mixwell.normalization import Normalization
from mixwell.policies import CutMix, FMix
from mixwell.policy import BatchPolicy, Policy, simple_policies
from mixwell.typecheck import PositiveInt
from mixwell.value import Value


class AnyShape(Value):
    """A policy for signals, volumes and video: masks extend over the last ``dims`` dimensions of the inputs.

    * ``dims=1``: signals ``(B, C, T)``, such as audio or an ECG. ``CutMix`` pastes an interval.
    * ``dims=2``: one mask for all slices or frames of volumes ``(B, C, D, H, W)`` and video ``(B, T, C, H, W)`` or
      ``(B, C, T, H, W)``. All policies that do not look at the images.
    * ``dims=3``: volumes ``(B, C, D, H, W)``. ``CutMix`` pastes a box with a depth, and ``FMix`` draws a
      three-dimensional mask.

    All dimensions between the first and the last ``dims`` are treated as channels. With 1, 3 or more dimensions
    ``MixUp``, ``CutMix``, ``FMix`` and policies made of them are possible. A box of ``CutMix`` then has the share
    ``(1 - lam) ** (1 / dims)`` of each dimension, rounded so that its volume matches ``1 - lam``; ``odd`` and
    ``match_area`` have no effect.

    Args:
        policy: The policy, or a composition by ``OneOf``, ``Sometimes`` or ``Switch``.
        dims: Number of dimensions of a mask.

    Raises:
        TypeError: The policy is not a policy, or ``dims`` is not a whole number.
        ValueError: The policy cannot mix such inputs; when called: inputs or labels do not fit.

    Example:
        >>> from mixwell import Roll
        >>> mix = AnyShape(CutMix(pairing=Roll()), dims=3)
        >>> mixed = mix(torch.rand(4, 1, 6, 8, 8), torch.arange(4))
        >>> mixed.images.shape, mixed.weights.shape
        (torch.Size([4, 1, 6, 8, 8]), torch.Size([4, 2]))
        >>> mixed.plan.share(mixed.plan.size).view(4, 2, 6, 8, 8).mean((2, 3, 4)).allclose(mixed.weights)
        True
    """

    policy: BatchPolicy = field(kw_only=False)
    dims: PositiveInt

    def __post_init__(self) -> None:
        for part in simple_policies(self.policy):
            _check(part, self.dims)

    def __call__(
        self,
        inputs: Tensor,
        labels: Tensor,
        model: object = None,
        generator: torch.Generator | None = None,
        normalization: Normalization | None = None,
    ) -> MixedBatch:
        """Mix a batch.

        Args:
            inputs: Shape ``(B, ..., *space)`` with ``dims`` dimensions in ``space``, floating point or uint8.
            labels: Class indices ``(B,)`` or dense labels ``(B, N)``.
            model: Ignored; accepted so that all policies share a signature.
            generator: Random generator; one on the CPU gives the same plan on every device.
            normalization: Ignored; accepted so that all policies share a signature.

        Returns:
            Mixed inputs, the labels of their sources and the weight of each. The plan is that of the inputs arranged as
            images of the size ``plan.size``: ``(T,)`` as ``(1, T)``, and ``(D, H, W)`` as ``(D * H, W)``. So
            ``plan.share(plan.size).view(B, K, D, H, W)`` is every source's share of a volume, and
            ``plan.apply_segmentation(masks.view(B, D * H, W))`` mixes its masks.
        """
        if not isinstance(inputs, Tensor) or inputs.dim() <= self.dims:
            got = f"shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__
            raise ValueError(f"inputs must be a tensor (B, ...) with {self.dims} dimensions for masks, but got {got}.")
        space = tuple(inputs.shape[-self.dims :])
        channels = math.prod(inputs.shape[1 : inputs.dim() - self.dims])
        images = inputs.reshape(len(inputs), channels, math.prod(space[:-1]), space[-1])
        batch = Batch(images, labels, generator=generator)
        batch.space = space
        with torch.no_grad():
            plan = self.at(0.0).policy._draw(batch)
        mixed = plan.apply(images).view(inputs.shape)
        if mixed.stride() != inputs.stride():  # channels last, where it is not that of the images
            mixed = torch.empty_like(inputs).copy_(mixed)
        return MixedBatch(mixed, plan.source_labels(labels), plan.weights, plan)


def _check(policy: BatchPolicy, dims: int) -> None:
    """Raise unless a policy can mix inputs with masks of so many dimensions."""
    if policy.uses_saliency or getattr(policy, "looks_as_trained", False):
        raise ValueError(f"{policy} computes masks from images: use MixUp(), CutMix() or FMix() for other inputs.")
    if dims == 2 or not isinstance(policy, Policy):  # NoMix
        return
    if not policy.any_dims:
        raise ValueError(
            f"{policy} makes masks with a height and a width: use MixUp(), CutMix() or FMix() with dims={dims}, or "
            "dims=2 for one mask for all slices or frames."
        )
    if isinstance(policy, CutMix) and policy.aspect != (1.0, 1.0):
        raise ValueError(f"aspect is the shape of a box with a height and a width, but dims is {dims}: got {policy}.")
    if isinstance(policy, FMix) and policy.spectrum == "published":
        raise ValueError(f'spectrum="published" is defined for a height and a width, but dims is {dims}: got {policy}.')
