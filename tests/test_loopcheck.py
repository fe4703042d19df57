"""Warnings about training loops: no call of after_step, and an optimizer without a method's own parameters."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import warnings
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.optim import SGD, AdamW
from torch.optim.optimizer import _global_optimizer_post_hooks as hooks

from mixwell import CutMix, GridLoss, Linear, Method, Mixing, MixUp, Sometimes, SUMix
from steps import Net, data


class Following(Mixing):
    """A method with a teacher, say."""

    needs_after_step = True


def train(
    method: Method, steps: int, told: bool, groups: object = None, zero: Callable | None = None, make: Callable = SGD
) -> list[str]:
    """Run a user's loop and return its warnings."""
    optimizer = make(method.param_groups() if groups is None else groups, lr=0.01)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(steps):
            (zero or optimizer.zero_grad)()
            method(*data())["loss"].backward()
            optimizer.step()
            if told:
                method.after_step((step + 1) / steps)
    return [str(one.message) for one in caught]


@pytest.mark.parametrize(
    ("make", "warns"),
    [
        (lambda: Following(Net()), True),
        (lambda: Mixing(Net(), MixUp(alpha=Linear(0.2, 1.0))), True),
        (lambda: Mixing(Net(), Sometimes(MixUp(alpha=Linear(0.2, 1.0)))), True),
        (lambda: GridLoss(Net(), num_classes=10, weight=Linear(0.0, 1.0)), True),
        (lambda: Mixing(Net(), MixUp()), False),
    ],
)
def test_after_step_is_missed(make: Callable[[], Method], warns: bool) -> None:
    """Once, where schedules or a teacher need it; never where it is called, or nothing depends on it."""
    found = train(make(), 8, told=False)
    assert len(found) == warns and all("without a call of after_step" in one for one in found)
    assert not train(make(), 8, told=True)
    evaluated = make().eval()
    assert not train(evaluated, 8, told=False)


def test_accumulation_is_no_missing_step() -> None:
    """Several passes before the first optimizer step are fine; very many without any are not."""
    method = Following(Net())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(16):
            method(*data())["loss"].backward()
    with pytest.warns(UserWarning, match="has run 16 training steps without a call of after_step"):
        method(*data())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method(*data())


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(
    "make", [lambda: SUMix(Net(), CutMix(), num_classes=10), lambda: GridLoss(Net(), num_classes=10)]
)
def test_parameters_that_the_optimizer_lacks(make: Callable[[], Method], told: bool) -> None:
    """One warning that names them; none for an optimizer of all parameters, whichever way gradients are reset."""
    method = make()
    found = train(method, 6, told, method.model.parameters())
    assert len(found) == 1 and "'head." in found[0] and "method.param_groups()" in found[0]
    method = make()
    method.model.stem.requires_grad_(False)
    assert not train(method, 6, told) and not train(make(), 6, told, zero=lambda: None)
    method = make()
    found = train(method, 6, True, method.model.parameters(), zero=method.zero_grad)
    assert len(found) == 1


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("kind", [{}, {"foreach": True}, {"fused": True}], ids=str)
@pytest.mark.parametrize("optimizer", [SGD, AdamW])
def test_every_kind_of_optimizer(optimizer: type, kind: dict, told: bool) -> None:
    """The warning does not depend on how an optimizer changes parameters, nor on when gradients are reset."""
    maker = partial(optimizer, **kind)
    for reset in (True, False):
        method = SUMix(Net(), CutMix(), num_classes=10)
        zero = method.zero_grad if reset else None
        assert len(train(method, 6, told, method.model.parameters(), zero, maker)) == 1
        method = SUMix(Net(), CutMix(), num_classes=10)
        assert not train(method, 6, told, None, method.zero_grad if reset else None, maker)
    assert len(train(Following(Net()), 8, False, make=maker)) == 1


def test_two_optimizers_and_another_model() -> None:
    """One optimizer may have the method's own parameters, in either order; steps of other models do not count."""
    for order in (1, -1):
        method, other = SUMix(Net(), CutMix(), num_classes=10), Net()
        assert method.head is not None
        parts = [method.model, method.head, other]
        optimizers = [SGD(part.parameters(), lr=0.01) for part in parts][::order]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for step in range(5):
                method(*data())["loss"].backward()
                other(data()[0]).sum().backward()
                for optimizer in optimizers:
                    optimizer.step()
                method.after_step(step / 5)


def test_no_hook_stays() -> None:
    """The hook on all optimizers is there during the first steps only; a method can be copied and pickled meanwhile."""
    gc.collect()
    method = SUMix(Net(), CutMix(), num_classes=10)
    method(*data())
    assert hooks
    assert pickle.dumps(copy.deepcopy(method))
    del method
    gc.collect()
    train(SUMix(Net(), CutMix(), num_classes=10), 6, True)
    assert not hooks


@pytest.mark.parametrize("progress", ["0.5", None, [0.5], torch.zeros(2), 1j, {}])
def test_progress_that_is_not_a_number(progress: object) -> None:
    with pytest.raises(TypeError, match=r"progress must be the share .*, a number in \[0, 1\], but got"):
        Mixing(Net()).after_step(progress)  # type: ignore[arg-type]
    for outside in (1.01, -1, math.nan, torch.tensor(2.0)):
        with pytest.raises(ValueError, match=r"progress must be the share .*, a number in \[0, 1\], but got"):
            Mixing(Net()).after_step(outside)  # type: ignore[arg-type]
    method = Mixing(Net())
    method.after_step(torch.tensor(0.5))  # type: ignore[arg-type]
    assert method.progress == 0.5


def test_groups_without_decay() -> None:
    """Weights decay, norms, biases and what the model names do not; every parameter is there once."""
    model = Net(norm=True)
    model.no_weight_decay = lambda: {"fc.weight"}  # type: ignore[assignment]
    method = SUMix(model, CutMix(), num_classes=10)
    decayed, spared = method.param_groups(weight_decay=0.1)
    names = {id(p): name for name, p in method.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {"model.stem.weight", "head.linear.weight"}
    assert decayed["weight_decay"] == 0.1 and spared["weight_decay"] == 0.0
    assert {names[id(p)] for p in spared["params"]} == set(names.values()) - {"model.stem.weight", "head.linear.weight"}
    assert [set(group) for group in method.param_groups()] == [{"params"}]
    with pytest.raises(ValueError, match="weight_decay must not be negative"):
        method.param_groups(weight_decay=-1.0)
