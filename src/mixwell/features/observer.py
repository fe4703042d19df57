"""Reading what label policies need in the forward passes of a training step."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mixwell.features.attention import AttentionHook
from mixwell.features.layers import last_map, pooled_layer
from mixwell.features.passes import MapHook, logits_of, reading

KNOWN = frozenset({"clean_logits", "clean_features", "attention", "attentions"})


class Observer:
    """Reads the fields of :class:`mixwell.labels.View` that a label policy needs, and nothing if it needs none.

    Args:
        model: The classifier.
        needs: ``LabelPolicy.needs``: any of ``clean_logits``, ``clean_features``, ``attention`` and ``attentions``.

    Attributes:
        on_clean: The hook for the pass over the unmixed images, or None; see :func:`reading`.
        on_mixed: The hook for the pass over the mixed images, or None.
        needs_clean_pass: Whether the label policy reads a pass over the unmixed images.

    Raises:
        ValueError: A field is unknown, or the model has no feature map or no attention.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
        >>> observer, images = Observer(model, frozenset({"clean_features"})), torch.rand(2, 3, 8, 8)
        >>> with reading(observer.on_clean):
        ...     logits = model(images)
        >>> observer.clean_fields(images)["clean_features"].shape
        torch.Size([2, 6, 6, 6])
    """

    def __init__(self, model: nn.Module, needs: frozenset[str]) -> None:
        if unknown := sorted(needs - KNOWN):
            raise ValueError(f"A label policy needs {', '.join(unknown)}, which methods do not compute.")
        self.needs = needs
        self.needs_clean_pass = bool(needs & {"clean_logits", "clean_features"})
        self.map_hook = self.attention_hook = None
        if "clean_features" in needs:
            self.map_hook = _last_map_hook(model)
        if needs & {"attention", "attentions"}:
            self.attention_hook = AttentionHook(model, every_block="attentions" in needs)
        self.on_clean, self.on_mixed = self.map_hook, self.attention_hook

    def clean_fields(self, images: Tensor, rows: slice = slice(None)) -> dict[str, Any]:
        """Return what was read in the pass over the unmixed images, without gradient.

        Args:
            images: The images of that pass.
            rows: The unmixed images among them.
        """
        return {"clean_features": self.map_hook.taken(images)[rows].detach()} if self.map_hook else {}

    def clean_pass(self, model: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """Run the model on the unmixed images, and return its logits and what was read as fields of a ``View``."""
        with reading(self.on_clean):
            logits = logits_of(model(images))
        return {"clean_logits": logits, **self.clean_fields(images)}

    def mixed_pass(self, model: nn.Module, images: Tensor) -> dict[str, Any]:
        """Run the model on the mixed images, and return its logits and what was read as fields of a ``View``."""
        with reading(self.on_mixed):
            logits = logits_of(model(images))
        return {"logits": logits, **self.mixed_fields(images)}

    def mixed_fields(self, images: Tensor, rows: slice = slice(None)) -> dict[str, Any]:
        """Return what was read in the pass over the mixed images, without gradient.

        Args:
            images: The images of that pass.
            rows: The mixed images among them.
        """
        if self.attention_hook is None:
            return {}
        fields: dict[str, Any] = {}
        if "attention" in self.needs:
            fields["attention"] = self.attention_hook.take(images)[rows]
        if "attentions" in self.needs:
            fields["attentions"] = tuple(matrix[rows] for matrix in self.attention_hook.take_all(images))
        return fields


def _last_map_hook(model: nn.Module) -> MapHook:
    """Read the map that goes into the global pooling, or else the output of the last stage."""
    pooling = pooled_layer(model)
    if pooling is not None:
        return MapHook(model, pooling, of="input")
    return MapHook(model, last_map(model, bypassed=True))
