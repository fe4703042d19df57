"""Objects from text, by the names that the command line, logs and tables use."""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any

from mixwell import labels, losses, methods, pairing, policies, policy, ratio, saliency, schedule, targets
from mixwell.anyshape import AnyShape
from mixwell.mixers import adaptivemask, masks, mixblock, teacher

KINDS: dict[str, type] = {
    "policy": policy.BatchPolicy,
    "method": methods.Method,
    "saliency": saliency.Saliency,
    "pairing": pairing.Pairing,
    "ratio": ratio.Ratio,
    "label": labels.LabelPolicy,
    "loss": losses.Loss,
    "target": targets.Targets,
    "rescale": targets.Rescale,
    "similarity": labels.Similarity,
    "view": methods.AugMixViews,
    "block": mixblock.BlockSettings,
    "mask_loss": masks.MaskLoss,
    "schedule": schedule.Schedule,
}
# Functions that return a policy made of others; the repr of the result names those.
SHORTHANDS: dict[str, Callable[..., Any]] = {
    f.__name__: f for f in (policies.random_mix, policies.switch_mix, policies.until)
}
# Arguments of a method that are passed when it is created, and not in text.
LATER = {"model", "policy", "num_classes", "normalization"}


def known() -> dict[str, Callable[..., Any]]:
    """Return every class and every function that may be named in text."""
    modules = (policies, policy, methods, saliency, pairing, ratio, labels, losses, targets)
    modules += (adaptivemask, masks, mixblock, teacher, schedule)
    return {"AnyShape": AnyShape, **SHORTHANDS} | {
        name: cls
        for module in modules
        for name, cls in vars(module).items()
        if inspect.isclass(cls) and issubclass(cls, tuple(KINDS.values())) and not inspect.isabstract(cls)
    }


def names(kind: str) -> list[str]:
    """List the names of a kind, sorted.

    Args:
        kind: ``"policy"``, ``"method"``, ``"saliency"``, ``"pairing"``, ``"ratio"``, ``"label"``, ``"loss"``,
            ``"target"``, ``"rescale"``, ``"similarity"``, ``"view"``, ``"block"``, ``"mask_loss"``, ``"schedule"``, or
            ``"shorthand"`` for the functions that return a policy.

    Raises:
        ValueError: The kind is unknown.

    Example:
        >>> names("ratio")
        ['Beta', 'Constant', 'Folded', 'Uniform']
    """
    if kind == "shorthand":
        return sorted(SHORTHANDS)
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)} or shorthand, but got {kind!r}.")
    return sorted(name for name, cls in known().items() if inspect.isclass(cls) and issubclass(cls, KINDS[kind]))


def parse(text: str, extra: dict[str, type] | None = None) -> Any:
    """Create an object from its repr: constructor calls of known names with literals; nothing else is evaluated.

    Args:
        text: ``"CutMix(alpha=0.2)"``, or just ``"CutMix"``.
        extra: Names of your own classes.

    Returns:
        The object. A method still needs its model and is returned as a ``functools.partial`` that takes
        ``(model, policy, num_classes=...)``.

    Raises:
        TypeError: ``text`` is not a str.
        ValueError: The text is not such a call, or a name or setting is unknown (the closest one is suggested) or
            wrong.

    Example:
        >>> parse("SaliencyMix(alpha=0.2, saliency=SpectralResidual())")
        SaliencyMix(alpha=0.2, saliency=SpectralResidual())
        >>> parse("until(CutMix, 0.9)")
        Switch({0.0: CutMix(), 0.9: NoMix()})
    """
    if not isinstance(text, str):
        raise TypeError(f"Expected a str like 'CutMix(alpha=0.2)', but got {type(text).__name__}.")
    try:
        with warnings.catch_warnings(action="ignore"):  # Python's warnings about code style
            tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None
    if not isinstance(tree, ast.Name | ast.Call | ast.Attribute):
        raise ValueError(f"Expected something like CutMix(alpha=0.2), but got {_short(text)}.")
    try:
        return _build(tree, known() | (extra or {}), text)
    except RecursionError:
        raise ValueError(f"Too many calls inside each other in {_short(text)}.") from None


def _build(node: ast.expr, makers: dict[str, Callable[..., Any]], text: str) -> Any:
    named = node.func if isinstance(node, ast.Call) else node
    if isinstance(named, ast.Attribute) and isinstance(named.value, ast.Name):  # mw.CutMix
        raise ValueError(f"Unknown name {_short(f'{named.value.id}.{named.attr}')}{nearest(named.attr[:80], makers)}")
    if isinstance(node, ast.Name):
        node = ast.Call(node, [], [])
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        name = node.func.id
        if name not in makers:
            raise ValueError(f"Unknown name {_short(name)}{nearest(name[:80], makers)}")
        positional = [_build(arg, makers, text) for arg in node.args]
        return _call(makers[name], positional, [(k.arg or "**", _build(k.value, makers, text)) for k in node.keywords])
    if isinstance(node, ast.List | ast.Tuple):
        return tuple(_build(element, makers, text) for element in node.elts)
    if isinstance(node, ast.Dict):
        keys = [_literal(key, text) for key in node.keys]
        return dict(zip(keys, [_build(value, makers, text) for value in node.values], strict=True))
    return _literal(node, text)


def _literal(node: ast.expr | None, text: str) -> Any:
    """Return a literal; the key of ``**`` in a dict is None and is refused."""
    try:
        value = ast.literal_eval(node)  # type: ignore[arg-type]  # None raises ValueError
        hash(value)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise ValueError(
            f"Expected constructor calls with literals, such as CutMix(alpha=0.2), but got {_short(text)}."
        ) from None
    return value


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def nearest(name: str, choices: Any) -> str:
    """Return ``; did you mean X?`` with the closest of some names, or the names where none is close.

    Example:
        >>> nearest("Cutmix", ["CutMix", "MixUp"])
        '; did you mean CutMix?'
    """
    lower = {str(choice).lower(): str(choice) for choice in choices}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {lower[close[0]]}?"
    listed = sorted(lower.values())
    return f"; known names: {', '.join(listed)}" if len(listed) <= 20 else "; mixwell.names(kind) lists all names"


def _call(make: Callable[..., Any], positional: list[Any], named: list[tuple[str, Any]]) -> Any:
    partial = inspect.isclass(make) and issubclass(make, methods.Method)
    parameters = [p for p in inspect.signature(make).parameters.values() if not (partial and p.name in LATER)]
    settings = [p.name for p in parameters]
    by_name = [p.name for p in parameters if partial or p.kind is p.KEYWORD_ONLY]
    what, keywords = make.__name__, dict(named)
    if len(positional) > len(settings) - len(by_name):
        value = repr(positional[0]) if len(positional) == 1 and by_name == settings else "..."
        example = f"{what}({by_name[0]}={value})" if by_name else f"{what}()"
        raise ValueError(f"{what} takes its settings by name, as in {example}: {', '.join(settings) or 'none'}.")
    for name, _ in named:
        if name not in settings:
            raise ValueError(f"{what} has no setting {name!r} here{nearest(name, settings)}")
    if len(keywords) < len(named):
        raise ValueError(f"{what} got a setting twice.")
    if partial:
        return functools.partial(make, **keywords)
    try:
        return make(*positional, **keywords)
    except (TypeError, AttributeError, LookupError, ArithmeticError, OSError) as error:
        reason = str(error) if len(str(error)) <= 300 else f"{str(error)[:297]}..."
        raise ValueError(f"{what} could not be created ({reason}): its settings are {', '.join(settings)}.") from None
