"""Passes of a model besides those of the training step, which leave it unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run a model in eval mode and restore the training flag of every module afterwards.

    Flags are set one by one: ``model.train()`` would also switch on what the user has frozen, and models override it.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(2).eval(), nn.Dropout())
        >>> with undisturbed(model):
        ...     model[1].training
        False
        >>> model[0].training, model[1].training
        (False, True)
    """
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def frozen_parameters(model: nn.Module) -> Iterator[None]:
    """Treat the parameters as constants, which saves the half of a backward pass that computes their gradients.

    Example:
        >>> import torch
        >>> layer = nn.Linear(2, 1)
        >>> with frozen_parameters(layer):
        ...     layer(torch.zeros(1, 2)).requires_grad
        False
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.is_leaf]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
