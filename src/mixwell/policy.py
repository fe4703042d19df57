"""The base of all sample policies, which decide what goes where, and policies made of other policies."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import field, fields
from itertools import accumulate
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from mixwell.batch import Batch, MixedBatch, Pairs
from mixwell.checks import check_saliency
from mixwell.normalization import Normalization
from mixwell.ops.pixels import on_host
from mixwell.pairing import Pairing, Permutation
from mixwell.plan import BlendPlan, Plan
from mixwell.plan.choice import choose_per_sample
from mixwell.ratio import Ratio, as_ratio
from mixwell.saliency.base import check_fit
from mixwell.typecheck import Fraction, NonNegativeFloat
from mixwell.value import Value, set_field

Model = torch.nn.Module | Callable[[Tensor], Tensor]
SaliencySource = Callable[[Any, Tensor, Tensor], Tensor]  # (model or None, images, labels) -> maps (B, h, w)
Scope = Literal["batch", "sample", "pair"]


class BatchPolicy(Value, ABC):
    """Anything that mixes a batch: the sample policies, and the policies made of them."""

    uses_saliency: ClassVar[bool] = False
    weights_sum_to_one: ClassVar[bool] = True
    two_sources: ClassVar[bool] = True  # False if a mixed image can have more; those of members do not count

    @abstractmethod
    def _draw(self, batch: Batch, partner: Tensor | None = None) -> Plan:
        """Draw a plan; ``partner`` is given where several policies share their pairs."""

    def pairs(self, batch: Batch) -> Pairs:
        """Draw who is mixed with whom and how much, for methods that decide elsewhere where the pixels go.

        Raises:
            ValueError: The policy mixes more than two sources.
        """
        plan = self._draw(batch)
        if len(plan.partners) != 1:
            raise ValueError(
                f"Two sources are expected, but the policy mixes {1 + len(plan.partners)}: use MixUp(alpha=2.0), for "
                "example."
            )
        return Pairs(plan.partners[0], plan.lam, plan.size, batch=batch)

    def draw(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        model: Model | None = None,
        saliency: Tensor | None = None,
        generator: torch.Generator | None = None,
        normalization: Normalization | None = None,
    ) -> Plan:
        """Draw everything random for one batch, without reading or writing pixels.

        Args:
            images: Shape ``(B, C, H, W)``, floating point or uint8; never modified.
            labels: Class indices ``(B,)``, int64, or dense labels ``(B, N)``.
            model: The classifier, for saliency sources that run it; its state is not changed.
            saliency: Maps ``(B, h, w)`` to use instead of the policy's own source, of the images' size or coarser, in
                the same proportions; negative values count as zero.
            generator: Random generator; one on the CPU gives the same plan on every device.
            normalization: How float images were normalized, for saliency and costs that are computed in pixel values;
                ``None`` means that they are in [0, 1].

        Returns:
            The plan, on the images' device; ``plan.apply(images)`` mixes.

        Raises:
            TypeError: Images or labels are of a type that cannot be mixed.
            ValueError: Shapes or devices do not fit, or saliency maps that are needed are missing, or not finite
                (checked on the CPU only).
        """
        with torch.no_grad():
            batch = Batch(
                images, labels, model=model, saliency=saliency, generator=generator, normalization=normalization
            )
            return (self.at(0.0) if self._changes else self)._draw(batch)

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        model: Model | None = None,
        saliency: Tensor | None = None,
        generator: torch.Generator | None = None,
        out: Tensor | None = None,
        normalization: Normalization | None = None,
    ) -> MixedBatch:
        """Mix a batch: draw a plan and apply it.

        Args:
            images: See :meth:`draw`.
            labels: See :meth:`draw`.
            model: See :meth:`draw`.
            saliency: See :meth:`draw`.
            generator: See :meth:`draw`.
            out: Buffer for the mixed images, see :meth:`mixwell.plan.Plan.apply`.
            normalization: See :meth:`draw`.

        Returns:
            Mixed images, the labels of their sources and the weight of each.

        Raises:
            TypeError: See :meth:`draw`.
            ValueError: See :meth:`draw`.
        """
        plan = self.draw(
            images, labels, model=model, saliency=saliency, generator=generator, normalization=normalization
        )
        return MixedBatch(plan.apply(images, out), plan.source_labels(labels), plan.weights, plan)

    def _maps(self, batch: Batch) -> Tensor | None:
        maps = batch.saliency
        source: SaliencySource | None = getattr(self, "saliency", None)
        checked = maps is None and type(source).__module__.startswith("mixwell.")  # one of our sources
        if maps is None and source is not None:
            settings = {"normalization": batch.normalization} if getattr(source, "uses_normalization", False) else {}
            maps = source(batch.model, batch.images, batch.labels, **settings)
            check_saliency(maps, batch.images)
        if maps is None:
            return None
        if on_host(maps) and not bool(maps.isfinite().all()):
            raise ValueError("saliency maps must be finite, but hold NaN or Inf: check their source.")
        maps = maps.float()
        if not checked:
            check_fit(maps, batch.size)
            maps = maps.clamp_min(0)
        return self._prepared(maps, batch)

    def _prepared(self, maps: Tensor, batch: Batch) -> Tensor:
        """Convert saliency maps ``(B, h, w)`` to the form that pairing and plan use."""
        return maps


class Policy(BatchPolicy):
    """A policy over pairs: a subclass implements ``plan(pairs)`` and inherits the rest.

    Args:
        alpha: Distribution of the mixing ratio; a number means ``Beta(alpha)``.
        pairing: How partners are chosen.
        scope: How often to draw: once per ``"batch"``, as published, once per ``"sample"``, or once per ``"pair"`` of
            rows that are each other's partner (as timm does; needs ``pairing=Reverse()``).

    Raises:
        ValueError: The scope is unknown or does not fit the pairing, or ``alpha`` is not positive.
    """

    alpha: float | Ratio = 1.0
    pairing: Pairing = Permutation()
    scope: Scope = "batch"

    any_dims: ClassVar[bool] = False  # whether plan() makes masks over pairs.space of any number of dimensions

    def __post_init__(self) -> None:
        check_scope(self.scope, self.pairing)
        check_source(getattr(self, "saliency", None))
        set_field(self, "_ratio", self._lam_ratio())

    def _lam_ratio(self) -> Ratio:
        """Return the distribution of ``pairs.lam``, which a policy may derive from its settings."""
        return as_ratio(self.alpha)

    @abstractmethod
    def plan(self, pairs: Pairs) -> Plan:
        """Return the plan for these pairs; all random numbers are drawn with ``pairs``."""

    def _draw(self, batch: Batch, partner: Tensor | None = None) -> Plan:
        pairs = self.pairs(batch, partner)
        return self.plan(pairs) if batch.images.shape[0] > 1 else BlendPlan(pairs)

    def pairs(self, batch: Batch, partner: Tensor | None = None) -> Pairs:
        """See :meth:`BatchPolicy.pairs`; ``partner`` is given where several policies share their pairs."""
        n = batch.images.shape[0]
        if n == 1:  # there is no partner
            return Pairs(torch.zeros(1, dtype=torch.int64, device=batch.device), batch.ones(), batch.size)
        if self.uses_saliency:
            batch = batch.with_saliency(self._maps(batch))  # before pairing, which may use them
        partner = self.pairing(batch) if partner is None else partner
        ratio: Ratio = self._ratio  # type: ignore[attr-defined]  # set when the settings were checked
        # __call__ is written out: until 2.7 torch.compile guards a called object by its identity, and a schedule
        # creates a new ratio in every step.
        lam = ratio.__call__(1 if self.scope == "batch" else n, batch.source_device, batch.generator)
        lam = batch.send(lam)
        once = torch.minimum(torch.arange(n, device=batch.device), partner) if self.scope == "pair" else None
        return Pairs(partner, lam if once is None else lam[once], batch.size, batch=batch, once=once)


class NoMix(BatchPolicy):
    """No mixing, as a baseline or as a member of :class:`OneOf`.

    Example:
        >>> NoMix()(torch.rand(2, 3, 4, 4), torch.tensor([0, 1])).weights
        tensor([[1., 0.],
                [1., 0.]])
    """

    def _draw(self, batch: Batch, partner: Tensor | None = None) -> Plan:
        partner = torch.arange(len(batch), device=batch.device) if partner is None else partner
        return BlendPlan(Pairs(partner, batch.ones(), batch.size))


_IDLE = NoMix()


class OneOf(BatchPolicy):
    """One of several policies, chosen at random for every batch or every sample.

    Args:
        policies: The candidates.
        weights: Relative probability of each; ``None`` for equal ones. They need not sum to one.
        scope: Choose once per ``"batch"`` (each policy uses its own pairing), or per ``"sample"`` (all share
            ``pairing``, and policies that move no pixels are merged into one mask: one pass over the images).
        pairing: How partners are chosen when the choice is per sample.

    Raises:
        ValueError: There are no policies, or weights that do not fit them.

    Example:
        >>> from mixwell import CutMix, MixUp
        >>> OneOf([MixUp(alpha=0.2), CutMix()], weights=[1, 3])
        OneOf(policies=(MixUp(alpha=0.2), CutMix()), weights=(1, 3))
    """

    policies: tuple[BatchPolicy, ...] = field(default=(), kw_only=False)
    weights: tuple[NonNegativeFloat, ...] | None = None
    scope: Scope = "batch"
    pairing: Pairing = Permutation()

    def __post_init__(self) -> None:
        weights = (1.0,) * len(self.policies) if self.weights is None else self.weights
        if not self.policies:
            raise ValueError("OneOf needs a list of policies, but got [].")
        if len(weights) != len(self.policies) or not 0 < sum(weights) < math.inf:
            raise ValueError(
                f"OneOf needs one weight per policy, not all zero, but got {list(weights)} for {len(self.policies)} "
                "policies."
            )
        check_scope(self.scope, self.pairing)
        set_field(self, "_edges", tuple(edge / sum(weights) for edge in accumulate(weights))[:-1])

    def _draw(self, batch: Batch, partner: Tensor | None = None) -> Plan:
        edges: tuple[float, ...] = self._edges  # type: ignore[attr-defined]  # set when the settings were checked
        if self.scope == "batch":
            u = batch.rand_on_host()
            return self.policies[sum(u >= edge for edge in edges)]._draw(batch, partner)
        partner = self.pairing(batch) if partner is None else partner
        u = _per_row(batch, partner, self.scope)
        choice = torch.zeros_like(u, dtype=torch.int64)
        for edge in edges:
            choice += u >= edge
        return choose_per_sample(tuple(policy._draw(batch, partner) for policy in self.policies), choice)


class Sometimes(BatchPolicy):
    """Mix with probability ``p``, and leave the batch or the sample unmixed otherwise.

    Args:
        policy: The policy.
        p: Probability of mixing, in [0, 1]. The authors of CutMix use 0.5 on CIFAR.
        scope: Decide once per ``"batch"``, as published, per ``"sample"``, or per ``"pair"`` of rows that are each
            other's partner.

    Raises:
        ValueError: ``p`` is not in [0, 1], or the scope is unknown or does not fit the policy's pairing.

    Example:
        >>> from mixwell import CutMix
        >>> Sometimes(CutMix(), p=0.25)
        Sometimes(policy=CutMix(), p=0.25)
    """

    policy: BatchPolicy = field(default=NoMix(), kw_only=False)
    p: Fraction = 0.5
    scope: Scope = "batch"

    def __post_init__(self) -> None:
        check_scope(self.scope, getattr(self.policy, "pairing", Permutation()))

    def _draw(self, batch: Batch, partner: Tensor | None = None) -> Plan:
        if self.scope == "batch":
            return (self.policy if batch.rand_on_host() < self.p else _IDLE)._draw(batch, partner)
        mixing = self.policy._draw(batch, partner)
        partner = mixing.partners[0]
        idle = (_per_row(batch, partner, self.scope) >= self.p).long()
        return choose_per_sample((mixing, _IDLE._draw(batch, partner)), idle)


def _per_row(batch: Batch, partner: Tensor, scope: str) -> Tensor:
    """Draw a uniform number for every row, shape ``(B,)``, or one for both rows of a pair."""
    u = batch.rand(len(batch))
    return u if scope == "sample" else u[torch.minimum(torch.arange(len(batch), device=u.device), partner)]


def simple_policies(policy: BatchPolicy) -> list[BatchPolicy]:
    """Return the policies that a composition such as ``OneOf`` holds, however deep; any other policy alone.

    Example:
        >>> simple_policies(Sometimes(OneOf([NoMix(), NoMix()])))
        [NoMix(), NoMix()]
    """
    settings = [getattr(policy, f.name) for f in fields(policy)]
    members = [member for member in tree_leaves(settings) if isinstance(member, BatchPolicy)]
    return [simple for member in members for simple in simple_policies(member)] or [policy]


def check_source(source: object) -> None:
    """Raise if a saliency source is a class or a policy."""
    if isinstance(source, type | BatchPolicy):
        raise TypeError(f"saliency must be a source such as FineGrained(), or a callable, but got {source!r}.")


def check_scope(scope: str, pairing: Pairing) -> None:
    """Raise unless the scope is known and fits the pairing."""
    if scope == "pair" and not pairing.involutive:
        raise ValueError(f'scope="pair" needs partners that choose each other: use pairing=Reverse(), not {pairing}.')
