"""Targets and ramps against what their formulas say for small lists."""

from __future__ import annotations

import pytest
import torch

from labelled import N, batch, random_batch
from mixwell import ExponentialRescale, PowerRescale, ThresholdTargets, TwoHotTargets, target_weights
from mixwell.targets import classy_vision_smoothing


def test_threshold_targets() -> None:
    """A share must exceed the threshold, and shares of one class add up first."""
    mixed = batch(torch.tensor([[0, 1, 2], [3, 3, 4]]), torch.tensor([[0.5, 0.3, 0.2], [0.15, 0.15, 0.7]]))
    assert ThresholdTargets(0.2)(mixed, N).tolist() == [[1, 1, 0, 0, 0], [0, 0, 0, 1, 1]]
    assert ThresholdTargets(0.0)(mixed, N).tolist() == [[1, 1, 1, 0, 0], [0, 0, 0, 1, 1]]


def test_two_hot_targets() -> None:
    """Whatever the weights; a class that both sources have counts once, or twice as published."""
    mixed = batch(torch.tensor([[0, 1], [3, 3]]), torch.tensor([[0.9, 0.1], [0.4, 0.6]]))
    assert TwoHotTargets()(mixed, N).tolist() == [[1, 1, 0, 0, 0], [0, 0, 0, 1, 0]]
    assert TwoHotTargets(clamp=False)(mixed, N).tolist() == [[1, 1, 0, 0, 0], [0, 0, 0, 2, 0]]
    expected = [[0.75, 0.75, 0, 0, 0], [0, 0, 0, 1, 0]]
    assert TwoHotTargets(scale=0.75)(mixed, N).tolist() == expected
    assert TwoHotTargets(scale=0.75, clamp=False)(mixed, N).tolist() == expected  # published code clamps here
    assert target_weights(TwoHotTargets()(mixed, N), 0.5).tolist() == [[1, 1, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 1, 0.5]]


@pytest.mark.parametrize("sign", [1, -1])
def test_rescaled_two_hot_targets(sign: int) -> None:
    """The ramps of decoupled mixup, written out for a list of weights."""
    weights = [0.0, 0.1, 0.35, 0.5, 0.7, 0.8, 0.95, 1.0]
    for threshold, index in ((1.0, 2.0), (0.8, 0.5), (0.5, 3.0)):
        power = [1.0 if w >= threshold else (w / threshold) ** index for w in weights]
        low = index ** (-2 * threshold)
        ramp = [1.0 if w >= threshold else (index ** (2 * (w - threshold)) - low) / (1 - low) for w in weights]
        got = PowerRescale(threshold=threshold, exponent=sign * index)(torch.tensor(weights))
        torch.testing.assert_close(got, torch.tensor(power))
        rescale = ExponentialRescale(threshold=threshold, base=sign * index)
        torch.testing.assert_close(rescale(torch.tensor(weights)), torch.tensor(ramp))
        targets = TwoHotTargets(rescale=rescale)(batch(torch.tensor([[0, 1]]), torch.tensor([[0.35, 0.1]])), 3)
        torch.testing.assert_close(targets, torch.tensor([[ramp[2], ramp[1], 0.0]]))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_classy_vision_smoothing(smoothing: float) -> None:
    """``(t + s / N) / (1 + s)``, written out."""
    mixed = random_batch("index")
    expected = (mixed.targets(N) + smoothing / N) / (1 + smoothing)
    torch.testing.assert_close(mixed.targets(N, classy_vision_smoothing(smoothing)), expected)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ThresholdTargets(1.0), "threshold must lie in"),
        (lambda: PowerRescale(threshold=0.0), "threshold must be positive"),
        (lambda: ExponentialRescale(threshold=-1.0), "threshold must be positive"),
        (lambda: ExponentialRescale(base=-1.0), "base must be neither 0 nor 1"),
        (lambda: TwoHotTargets(scale=0.0), "scale must be positive"),
    ],
)
def test_wrong_settings_are_refused(make, sentence) -> None:
    """When they are written, not in the first step."""
    with pytest.raises(ValueError, match=sentence):
        make()
