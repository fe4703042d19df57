"""Finding the parts of a model that put out maps: its stages, and the last map of all."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from mixwell.features.hooks import unwrapped

_LISTS = ("stages", "layers", "blocks")
_DEPTH = 2  # a model in a wrapper of its owner's, and in that of torch.compile


def stages_of(model: nn.Module) -> list[str]:
    """Return the names of a model's stages in order, or nothing where they cannot be told.

    Stages are ``layer1``, ``layer2``, ... or ``stage1``, ... , or the children of ``stages``, ``layers`` or ``blocks``:
    the model's own, or else those of the only one of its parts that has any. Wrappers such as
    ``DistributedDataParallel`` are looked through.

    Example:
        >>> model = nn.Module()
        >>> model.blocks = nn.Sequential(nn.ReLU(), nn.ReLU())
        >>> stages_of(model), stages_of(nn.Sequential(model, nn.Linear(2, 2)))
        (['blocks.0', 'blocks.1'], ['0.blocks.0', '0.blocks.1'])
    """
    return _of_the_only(unwrapped(model), _stages, _DEPTH)


def last_map(model: nn.Module) -> str:
    """Return the name of what puts out the last map, through which all goes: its output may be read, and changed.

    That is the last stage, or what a timm model says, or the last part of a plain sequence that has a convolution. No
    convolution inside a block is taken, as something may go around it.

    Raises:
        ValueError: There is none of these.

    Example:
        >>> last_map(nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(), nn.Linear(6, 10)))
        '0'
    """
    inner = unwrapped(model)
    found = _of_the_only(inner, lambda part: _stages(part) or _told_by_timm(part), _DEPTH)
    if not found and type(inner) is nn.Sequential:
        found = convolutional(inner)
    if not found:
        raise ValueError(
            f"{type(inner).__name__} has no stages that could be told, and so no last map: name a layer that puts out "
            'maps (B, C, h, w) or tokens (B, N, C), as in layer="encoder.11".'
        )
    return found[-1]


def convolutional(model: nn.Module) -> list[str]:
    """Return the names of a model's parts that have a convolution.

    Example:
        >>> convolutional(nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten()))
        ['0']
    """
    parts = unwrapped(model).named_children()
    return [name for name, part in parts if any(isinstance(module, nn.Conv2d) for module in part.modules())]


def _of_the_only(model: nn.Module, names_in: Callable[[nn.Module], list[str]], depth: int) -> list[str]:
    """Return names in a model or, where it has none, in the only one of its parts that has some."""
    found = names_in(model)
    if found or not depth:
        return found
    deeper = ((name, _of_the_only(part, names_in, depth - 1)) for name, part in model.named_children())
    several = [[f"{name}.{inner}" for inner in inside] for name, inside in deeper if inside]
    return several[0] if len(several) == 1 else []


def _stages(model: nn.Module) -> list[str]:
    children = dict(model.named_children())
    for prefix in ("layer", "stage"):
        numbered = [name for name in children if name.startswith(prefix) and name.removeprefix(prefix).isdecimal()]
        if len(numbered) > 1:
            return sorted(numbered, key=lambda name: int(name.removeprefix(prefix)))
    for name in _LISTS:
        if isinstance(children.get(name), nn.Sequential | nn.ModuleList):
            return [f"{name}.{key}" for key, _ in children[name].named_children()]
    return []


def _told_by_timm(model: nn.Module) -> list[str]:
    said = getattr(model, "feature_info", None)
    names = [str(stage.get("module")) for stage in said if isinstance(stage, dict)] if isinstance(said, list) else []
    known = dict(model.named_modules())
    return [name for name in names[-1:] if name and name in known]
