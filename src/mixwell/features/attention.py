"""Attention matrices of transformers in the layout of timm."""

from __future__ import annotations

import math
from typing import Self

from torch import Tensor, nn

from mixwell.features.layers import unwrapped
from mixwell.features.maps import grid_of
from mixwell.features.passes import FeatureHook


class AttentionHook:
    """Reads the attention of a transformer's blocks inside a ``with`` block, after the softmax and before its dropout.

    Modules with a child ``attn_drop`` are attention modules, as in all of timm: ViT and DeiT with class, distillation
    and register tokens or without any, BEiT, EVA, Swin, PVT, CaiT, XCiT and others. Inside the block they compute their
    attention explicitly (``fused_attn`` is False), because fused kernels do not return it; at its end, also after an
    error, they are as before.

    Args:
        model: The model; wrappers such as ``DistributedDataParallel`` are looked through.
        every_block: Read all blocks and not only the last one.

    Raises:
        ValueError: The model has no attention modules.

    Example:
        >>> import timm, torch
        >>> model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=5)
        >>> images = torch.rand(2, 3, 32, 32)
        >>> with (hook := AttentionHook(model)):
        ...     logits = model(images)
        >>> hook.take(images).shape
        torch.Size([2, 2, 2])
    """

    def __init__(self, model: nn.Module, every_block: bool = False) -> None:
        self.network = unwrapped(model)
        named = dict(self.network.named_modules())
        found = [name for name, module in named.items() if isinstance(getattr(module, "attn_drop", None), nn.Module)]
        if not found:
            raise ValueError(
                f"{type(self.network).__name__} has no attention that could be read: expected a transformer whose "
                "attention modules have a child attn_drop, as those of timm have."
            )
        self.names = found if every_block else found[-1:]
        self.modules = [named[name] for name in self.names]
        self.block = named.get(found[-1].rpartition(".")[0])
        self.hooks = [FeatureHook(self.network, f"{name}.attn_drop", of="input") for name in self.names]
        self._fused = [bool(getattr(module, "fused_attn", False)) for module in self.modules]

    def __enter__(self) -> Self:
        self._set_fused(False)
        for hook in self.hooks:
            hook.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.__exit__(*error)
        self._set_fused(True)

    def _set_fused(self, on: bool) -> None:
        for module, fused in zip(self.modules, self._fused, strict=True):
            if fused:
                setattr(module, "fused_attn", on)  # noqa: B010  (a plain attribute, which nn.Module does not declare)

    def close(self) -> None:
        """Take the hooks off the model."""
        for hook in self.hooks:
            hook.close()

    def take(self, images: Tensor, by_patches: bool = False) -> Tensor:
        """Return the attention to every patch in the last block, averaged over the heads; before :meth:`take_all`.

        It is the attention of the class token if the model classifies by it, else the average over all patches.

        Args:
            images: The images of the forward pass, shape ``(B, C, H, W)``.
            by_patches: Average over all patches in any case where the block has more queries than the class token.

        Returns:
            Shape ``(B, h, w)``, float32, not negative, without gradient.

        Raises:
            ValueError: The attention does not have the layout of tokens or of windows of tokens.
        """
        matrix = _mean_over_heads(self.hooks[-1].take(forget=len(self.hooks) == 1), self.names[-1])
        rows, size = len(images), (images.shape[2], images.shape[3])
        if len(matrix) != rows:
            return self._from_windows(matrix, rows, size)
        if matrix.shape[1] > 1:
            patches = math.prod(self._grid(matrix.shape[2], size))
            extra = matrix.shape[2] - patches if matrix.shape[1] == matrix.shape[2] else 0
            by_class = extra and not by_patches and getattr(self.network, "global_pool", "token") == "token"
            row = matrix[:, 0] if by_class else matrix[:, extra:].mean(1)
        else:  # a block of class attention, as in CaiT and XCiT
            row = matrix[:, 0]
        height, width = self._grid(row.shape[1], size)
        return row[:, row.shape[1] - height * width :].unflatten(1, (height, width))

    def take_all(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the attention matrices of all blocks, averaged over the heads.

        Args:
            images: The images of the forward pass, shape ``(B, C, H, W)``.

        Returns:
            Shape ``(B, T, T)`` each, float32, without gradient.

        Raises:
            ValueError: The blocks do not all attend between the same tokens.
        """
        matrices = tuple(_mean_over_heads(hook.take(), name) for hook, name in zip(self.hooks, self.names, strict=True))
        tokens = matrices[0].shape[2]
        if any(matrix.shape != (len(images), tokens, tokens) for matrix in matrices):
            raise ValueError(
                f"{type(self.network).__name__} does not attend between the same tokens in all blocks: a plain ViT is "
                "needed, without windows, merging of tokens or class-attention blocks."
            )
        self._grid(tokens, (images.shape[2], images.shape[3]))
        return matrices

    def _grid(self, tokens: int, size: tuple[int, int]) -> tuple[int, int]:
        """Return rows and columns of the patches among the tokens, or raise if they do not fill the images."""
        known = getattr(self.network, "num_prefix_tokens", None)
        try:
            grid = grid_of(tokens, size)
        except ValueError:
            grid = (0, 0)
        counts = {math.prod(grid), math.prod(grid) + (known or 0)}
        grid_by_size = getattr(getattr(self.network, "patch_embed", None), "dynamic_feat_size", None)
        if known is not None and grid_by_size is not None:  # a ViT, which may have dropped patches
            patches = math.prod(grid_by_size(size))
            counts &= {patches, patches + known}
        if not math.prod(grid) or (known is not None and tokens not in counts):
            raise ValueError(
                f"The attention of {self.names[-1]!r} has {tokens} tokens, which do not form a grid of patches for "
                f"images of {size[0]} x {size[1]}: use a network that drops or merges no patches, on images that its "
                "patches fill."
            )
        return grid

    def _from_windows(self, matrix: Tensor, rows: int, size: tuple[int, int]) -> Tensor:
        """Return the average attention within windows as maps: windows are numbered by rows, as in Swin."""
        window, block = getattr(self.modules[-1], "window_size", None), self.block
        each, remainder = divmod(len(matrix), rows)
        if isinstance(window, int):
            window = (window, window)
        if window is None or remainder or matrix.shape[2] != math.prod(window):
            raise ValueError(
                f"The attention of {self.names[-1]!r} has shape {tuple(matrix.shape)}, which is neither one matrix per "
                "image nor one per window of Swin."
            )
        down = next(n for n in range(round(math.sqrt(each * size[0] / size[1])) or 1, 0, -1) if each % n == 0)
        grid = (down, each // down)
        maps = matrix.mean(1).view(rows, *grid, *window).permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2)
        shift = getattr(block, "shift_size", 0)
        shifts = shift if isinstance(shift, tuple | list) else (shift, shift)
        return maps.roll(tuple(shifts), (1, 2)) if any(shifts) else maps


def _mean_over_heads(attention: Tensor, name: str) -> Tensor:
    if attention.dim() != 4:
        raise ValueError(
            f"Expected attention of shape (B, heads, queries, keys) in {name!r}, but got {tuple(attention.shape)}."
        )
    return attention.detach().float().mean(1)
