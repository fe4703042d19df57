"""One policy after another, by the progress of the training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from torch import Tensor

from mixwell.batch import Batch
from mixwell.plan import Plan
from mixwell.policy import BatchPolicy, NoMix
from mixwell.schedule import checked_stages, stage_at
from mixwell.typecheck import Within
from mixwell.value import set_field


class Switch(BatchPolicy):
    """Use one policy after another.

    ``switch.at(progress)`` returns the policy of that progress, as methods do in every step. Called directly
    it mixes with the first one.

    Args:
        policies: Maps the progress from which on a policy is used, in [0, 1), to the policy; the first progress is 0.

    Raises:
        ValueError: There are no policies, the first does not start at 0, or a progress is outside [0, 1).

    Example:
        >>> from mixwell import CutMix, MixUp
        >>> switch = Switch({0.0: MixUp(), 0.6: CutMix()})
        >>> switch.at(0.5), switch.at(0.6)
        (MixUp(), CutMix())
    """

    policies: Mapping[float, BatchPolicy] = field(default_factory=dict, kw_only=False)

    _changes = True

    def __post_init__(self) -> None:
        set_field(self, "policies", checked_stages("Switch", self.policies))
        if not all(isinstance(policy, BatchPolicy) for policy in self.policies.values()):
            raise ValueError(f"Switch needs policies such as CutMix(), but got {list(self.policies.values())}.")

    def at(self, progress: float) -> BatchPolicy:
        """Return the policy that is used at a progress in [0, 1], with the numbers of its own schedules."""
        return stage_at(self.policies, progress).at(progress)

    def __hash__(self) -> int:
        return hash(tuple(self.policies.items()))

    def __repr__(self) -> str:
        return f"Switch({dict(self.policies)})"

    def _draw(self, batch: Batch, partner: Tensor | None = None) -> Plan:
        return self.at(0.0)._draw(batch, partner)


def until(policy: BatchPolicy, progress: float) -> Switch:
    """Return a policy that mixes up to a progress and leaves images unmixed for the rest of the training.

    Args:
        policy: The policy.
        progress: The progress at which mixing ends, in (0, 1).

    Raises:
        ValueError: The progress is out of range.

    Example:
        >>> from mixwell import CutMix
        >>> until(CutMix(), 0.9)
        Switch({0.0: CutMix(), 0.9: NoMix()})
    """
    Within(0, 1, above=True, below=True).check("progress", progress)
    return Switch({0.0: policy, progress: NoMix()})
