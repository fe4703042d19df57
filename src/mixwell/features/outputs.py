"""The logits in what a model returns."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def logits_of(output: Any) -> Tensor:
    """Return the logits in the output of a model: a tensor itself, or the ``logits`` of a Hugging Face output.

    Raises:
        TypeError: The output is neither.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> logits_of(SimpleNamespace(logits=torch.zeros(2, 3))).shape
        torch.Size([2, 3])
    """
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, dict) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"The model must return logits, a tensor (B, N) or an output with the attribute logits, but it returned a "
            f"{type(output).__name__}: wrap it in a module that returns the logits."
        )
    return logits
