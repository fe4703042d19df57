"""Common random choices between policies, built from ``OneOf`` and ``Sometimes``."""

from __future__ import annotations

from mixwell.pairing import Reverse
from mixwell.policies.cutmix import CutMix
from mixwell.policies.fmix import FMix
from mixwell.policies.mixup import MixUp
from mixwell.policies.resizemix import ResizeMix
from mixwell.policy import BatchPolicy, OneOf, Scope, Sometimes
from mixwell.typecheck import Within

SCOPE_OF_MODE: dict[str, Scope] = {"batch": "batch", "pair": "pair", "elem": "sample"}


def switch_mix(
    mixup_alpha: float = 0.8,
    cutmix_alpha: float = 1.0,
    prob: float = 1.0,
    switch_prob: float = 0.5,
    mode: str = "batch",
    cutmix_minmax: tuple[float, float] | None = None,
    correct_lam: bool = True,
) -> BatchPolicy:
    """Return a random choice of MixUp and CutMix, with the arguments of timm's ``Mixup``.

    The defaults are those of DeiT's and Swin's recipes. Row *i* is mixed with row *B - 1 - i*.

    Args:
        mixup_alpha: Parameter of MixUp's Beta distribution; 0 for no MixUp.
        cutmix_alpha: Parameter of CutMix's Beta distribution; 0 for no CutMix.
        prob: Probability of mixing at all.
        switch_prob: Probability of CutMix if both are used.
        mode: Draw everything once per ``"batch"``, per ``"pair"`` of rows that are mixed with each other, or per image,
            ``"elem"``.
        cutmix_minmax: Draw both sides of CutMix's box uniformly between these shares of the image's; CutMix is then
            used whatever its alpha.
        correct_lam: Label weights of CutMix from the pasted area.

    Returns:
        The policy.

    Raises:
        ValueError: Neither policy is used, or a setting is out of range.

    Note:
        Batches of an odd size work: the middle image is not mixed. Numbers are drawn with torch's generators, so they
        differ from timm's, but have the same distributions.

    Source: Touvron et al., *Training Data-Efficient Image Transformers*, ICML 2021 (arXiv:2012.12877), for the recipe.

    Example:
        >>> switch_mix(cutmix_alpha=0, prob=0.8)
        Sometimes(policy=MixUp(alpha=0.8, pairing=Reverse()), p=0.8)
    """
    if mode not in SCOPE_OF_MODE:
        raise ValueError(f"mode must be one of {', '.join(SCOPE_OF_MODE)}, but got {mode!r}.")
    Within(0, 1).check("switch_prob", switch_prob)
    scope = SCOPE_OF_MODE[mode]
    mix = _switched(mixup_alpha, cutmix_alpha, cutmix_minmax, correct_lam, scope)
    weights = (1 - switch_prob, switch_prob)
    chosen = mix[0] if len(mix) == 1 else OneOf(tuple(mix), weights=weights, scope=scope, pairing=Reverse())
    return chosen if prob == 1 else Sometimes(chosen, p=prob, scope=scope)


def _switched(
    mixup: float, cutmix: float, minmax: tuple[float, float] | None, correct_lam: bool, scope: Scope
) -> list[BatchPolicy]:
    """Return those of the two policies that are used."""
    mix: list[BatchPolicy] = []
    if mixup > 0:
        mix.append(MixUp(alpha=mixup, pairing=Reverse(), scope=scope))
    if cutmix > 0 or minmax is not None:
        alpha = cutmix if minmax is None else 1.0
        cut = CutMix(alpha=alpha, pairing=Reverse(), scope=scope, minmax=minmax, correct_lam=correct_lam, odd="exact")
        mix.append(cut)
    if not mix:
        raise ValueError("switch_mix needs mixup_alpha, cutmix_alpha or cutmix_minmax; for no mixing use NoMix().")
    return mix


def random_mix(alpha: float = 1.0, scope: Scope = "batch") -> OneOf:
    """Return a random choice of MixUp, CutMix, FMix and ResizeMix; MixUp is three times as likely as each other.

    Args:
        alpha: Parameter of the Beta distribution of the first three.
        scope: Choose once per ``"batch"`` or once per ``"sample"``.

    Returns:
        The policy; other weights are ``OneOf(policies, weights)``.

    Note:
        No code was published.

    Source: Liu et al., *RandoMix: A Mixed Sample Data Augmentation Method with Multiple Mixed Modes*, 2022
    (arXiv:2205.08728).

    Example:
        >>> random_mix()
        OneOf(policies=(MixUp(), CutMix(), FMix(), ResizeMix()), weights=(3, 1, 1, 1))
    """
    mix = (MixUp(alpha=alpha, scope=scope), CutMix(alpha=alpha, scope=scope), FMix(alpha=alpha, scope=scope))
    return OneOf((*mix, ResizeMix(scope=scope)), weights=(3, 1, 1, 1), scope=scope)
