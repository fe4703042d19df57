"""Published accuracies to compare with."""

from __future__ import annotations

from mixwell.train.recipes import COMBINED, Result
from mixwell.train.runs import Group

OWN_POLICY = ("AutoMix", "SAMix", "AdAutoMix")


def published(group: Group) -> list[Result]:
    """Return the published results of a group's network, data set, policy and method.

    Settings of policy and method are not compared, but for the labels of ``Mixing``. AutoMix and its successors are
    found under any policy, because they decide by themselves where pixels go.
    """
    base = COMBINED[group.recipe].base if group.recipe in COMBINED else group.recipe
    found: list[Result] = []
    for recipe in COMBINED.values():
        if recipe.base == base and recipe.results:
            config = recipe()
            if _kind(config.policy, config.method) == _kind(group.policy, group.method):
                found += recipe.results
    return found


def _kind(policy: str, method: str) -> tuple[str, str]:
    name = method.partition("(")[0]
    return "" if name in OWN_POLICY else policy.partition("(")[0], method if name == "Mixing" else name
