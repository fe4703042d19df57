"""Text to objects: the names that the command line, logs and tables use."""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any

import mixwell.labels as labels
import mixwell.methods as methods
import mixwell.pairing as pairing
import mixwell.policies as policies
import mixwell.policy as policy
import mixwell.ratio as ratio
import mixwell.saliency as saliency
import mixwell.targets as targets

KINDS: dict[str, type] = {
    "policy": policy.BatchPolicy,
    "method": methods.Method,
    "saliency": saliency.Saliency,
    "pairing": pairing.Pairing,
    "ratio": ratio.Ratio,
    "label": labels.LabelPolicy,
    "target": targets.Targets,
    "rescale": targets.Rescale,
    "similarity": labels.Similarity,
}


def known() -> dict[str, type]:
    """Return every class that may be named in text."""
    modules = (policies, policy, methods, saliency, pairing, ratio, labels, targets)
    return {
        name: cls
        for module in modules
        for name, cls in vars(module).items()
        if inspect.isclass(cls) and issubclass(cls, tuple(KINDS.values())) and not inspect.isabstract(cls)
    }


def names(kind: str) -> list[str]:
    """List what there is of a kind, sorted.

    Args:
        kind: ``"policy"``, ``"method"``, ``"saliency"``, ``"pairing"``, ``"ratio"`` or ``"label"``.

    Raises:
        ValueError: There is no such kind.

    Example:
        >>> names("ratio")
        ['Beta', 'Constant', 'Folded', 'Uniform']
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, but got {kind!r}.")
    return sorted(name for name, cls in known().items() if issubclass(cls, KINDS[kind]))


def parse(text: str, extra: dict[str, type] | None = None) -> Any:
    """Make an object from its repr: constructor calls of known names with literals, nothing else is ever evaluated.

    Args:
        text: ``"CutMix(alpha=0.2)"``, or just ``"CutMix"``.
        extra: Names of your own classes.

    Returns:
        The object. A method, which still needs its model, comes as a ``functools.partial`` that takes
        ``(model, policy, num_classes=...)``.

    Raises:
        ValueError: The text is no such call, or a name or setting is unknown; the nearest right one is named.

    Example:
        >>> parse("SaliencyMix(alpha=0.2, saliency=SpectralResidual())")
        SaliencyMix(alpha=0.2, saliency=SpectralResidual())
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"Expected something like CutMix(alpha=0.2), but got {text[:80]!r}.") from None
    return _build(tree.body, known() | (extra or {}), text)


def _build(node: ast.expr, classes: dict[str, type], text: str) -> Any:
    if isinstance(node, ast.Name):
        return _call(_class(node.id, classes), [], {})
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        positional = [_build(arg, classes, text) for arg in node.args]
        keywords = {k.arg or "**": _build(k.value, classes, text) for k in node.keywords}
        return _call(_class(node.func.id, classes), positional, keywords)
    if isinstance(node, ast.List | ast.Tuple):
        return tuple(_build(element, classes, text) for element in node.elts)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise ValueError(
            f"Expected constructor calls with literals, such as CutMix(alpha=0.2), but got {text[:80]!r}."
        ) from None


def _class(name: str, classes: dict[str, type]) -> type:
    if name not in classes:
        raise ValueError(f"Unknown name {name!r}{nearest(name, classes)}.")
    return classes[name]


def nearest(name: str, choices: Any) -> str:
    """Return ``; did you mean X?`` with the closest of some names, or nothing where none is close.

    Example:
        >>> nearest("Cutmix", ["CutMix", "MixUp"])
        '; did you mean CutMix?'
    """
    lower = {str(choice).lower(): str(choice) for choice in choices}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    return f"; did you mean {lower[close[0]]}?" if close else f"; there are {', '.join(sorted(lower.values()))}"


def _call(cls: type, positional: list[Any], keywords: dict[str, Any]) -> Any:
    parameters = inspect.signature(cls).parameters
    for name in keywords:
        if name not in parameters:
            raise ValueError(f"{cls.__name__} has no setting {name!r}{nearest(name, parameters)}.")
    make: Callable[..., Any] = functools.partial(cls, **keywords) if issubclass(cls, methods.Method) else cls
    if make is not cls:
        if positional:
            raise ValueError(f"{cls.__name__} takes settings by name here; its model and policy come later.")
        return make
    try:
        return cls(*positional, **keywords)
    except TypeError as error:
        raise ValueError(f"{cls.__name__} cannot be made: {error}.") from None
