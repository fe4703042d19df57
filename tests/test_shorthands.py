"""Functions that return policies are written in text like policies, and as safely."""

from __future__ import annotations

import inspect

import pytest

import mixwell
from mixwell import CutMix, MixUp, Sometimes, names, parse, random_mix, switch_mix, until

SHORTHANDS = {
    "switch_mix": switch_mix(),
    "switch_mix(0.2, 1, mode='elem', cutmix_minmax=[0.2, 0.8])": switch_mix(
        0.2, 1, mode="elem", cutmix_minmax=(0.2, 0.8)
    ),
    "random_mix(scope='sample')": random_mix(scope="sample"),
    "until(CutMix, 0.9)": until(CutMix(), 0.9),
    "until(switch_mix(prob=0.5), progress=0.9)": until(switch_mix(prob=0.5), 0.9),
    "Sometimes(until(policy=MixUp(alpha=0.2), progress=0.5), p=0.3)": Sometimes(until(MixUp(alpha=0.2), 0.5), p=0.3),
}


@pytest.mark.parametrize("text", SHORTHANDS)
def test_functions_that_return_policies_can_be_written(text: str) -> None:
    """Each makes what the call in Python makes, the repr of which reads back."""
    assert parse(text) == SHORTHANDS[text]
    assert parse(repr(parse(text))) == SHORTHANDS[text]


def test_every_shorthand_is_known() -> None:
    """All functions that are exported and return a policy, and no others."""
    functions = {name for name in mixwell.__all__ if inspect.isfunction(getattr(mixwell, name))}
    returned = {name: inspect.signature(getattr(mixwell, name)).return_annotation for name in functions}
    policies = {name for name in functions if returned[name] in ("BatchPolicy", "OneOf", "Switch")}
    assert names("shorthand") == sorted(policies) == ["random_mix", "switch_mix", "until"]
    assert all(any(name in text for text in SHORTHANDS) for name in policies)


@pytest.mark.parametrize(
    "text",
    [
        "until",
        "until(CutMix, 0.5, 0.6)",
        "until(CutMix, nan)",
        "until(cross_entropy, 0.5)",
        "until(Mixing, 0.5)",
        "until(print('x'), 0.5)",
        "until.__globals__",
        "switch_mix()()",
        "switch_mix(mode=['batch'])",
        "switch_mix(mode={})",
        "switch_mix(prob='1')",
        "switch_mix(mixup_alpha=CutMix)",
        "switch_mix(0.8, mixup_alpha=0.8)",
        "random_mix(**{'alpha': 1})",
        "at(CutMix, 0.5)",
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    """With a ValueError of one short line."""
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the texts differ; their form is checked below)
        parse(text)
    assert "\n" not in str(error.value) and 10 < len(str(error.value)) < 600
