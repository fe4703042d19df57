"""Text to objects: the names that the command line, logs and tables use."""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import mixwell.labels as labels
import mixwell.losses as losses
import mixwell.methods as methods
import mixwell.mixers.adaptivemask as adaptivemask
import mixwell.mixers.masks as masks
import mixwell.mixers.mixblock as mixblock
import mixwell.mixers.teacher as teacher
import mixwell.pairing as pairing
import mixwell.policies as policies
import mixwell.policy as policy
import mixwell.ratio as ratio
import mixwell.saliency as saliency
import mixwell.schedule as schedule
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
    "view": methods.AugMixViews,
    "block": mixblock.BlockSettings,
    "mask_loss": masks.MaskLoss,
    "schedule": schedule.Schedule,
}
LOSSES: dict[str, Callable[..., Any]] = {f.__name__: f for f in (losses.cross_entropy, losses.binary_cross_entropy)}
# Functions that write a policy made of others in one word; what they return has a repr of its own.
SHORTHANDS: dict[str, Callable[..., Any]] = {
    f.__name__: f for f in (policies.random_mix, policies.switch_mix, policies.until)
}
# What methods and losses are given when they are used, and not in text.
LATER = {"model", "policy", "num_classes", "logits", "mixed", "reduction"}


def known() -> dict[str, Callable[..., Any]]:
    """Return every class and every function that may be named in text."""
    modules = (policies, policy, methods, saliency, pairing, ratio, labels, targets)
    modules += (adaptivemask, masks, mixblock, teacher, schedule)
    return (
        LOSSES
        | SHORTHANDS
        | {
            name: cls
            for module in modules
            for name, cls in vars(module).items()
            if inspect.isclass(cls) and issubclass(cls, tuple(KINDS.values())) and not inspect.isabstract(cls)
        }
    )


def names(kind: str) -> list[str]:
    """List what there is of a kind, sorted.

    Args:
        kind: ``"policy"``, ``"method"``, ``"saliency"``, ``"pairing"``, ``"ratio"``, ``"label"``, ``"loss"``,
            ``"target"``, ``"rescale"``, ``"similarity"``, ``"view"``, ``"block"``, ``"mask_loss"``, ``"schedule"``, or
            ``"shorthand"`` for the functions that return a policy.

    Raises:
        ValueError: There is no such kind.

    Example:
        >>> names("ratio")
        ['Beta', 'Constant', 'Folded', 'Uniform']
    """
    functions = {"loss": LOSSES, "shorthand": SHORTHANDS}
    if kind in functions:
        return sorted(functions[kind])
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, shorthand or loss, but got {kind!r}.")
    return sorted(name for name, cls in known().items() if inspect.isclass(cls) and issubclass(cls, KINDS[kind]))


def parse(text: str, extra: dict[str, type] | None = None) -> Any:
    """Make an object from its repr: constructor calls of known names with literals, nothing else is ever evaluated.

    Args:
        text: ``"CutMix(alpha=0.2)"``, or just ``"CutMix"``.
        extra: Names of your own classes.

    Returns:
        The object. A method, which still needs its model, comes as a ``functools.partial`` that takes
        ``(model, policy, num_classes=...)``, and a loss as one that takes ``(logits, mixed)``.

    Raises:
        TypeError: What came is not text.
        ValueError: The text is no such call, or a name or setting is unknown (the nearest right one is named) or wrong.

    Example:
        >>> parse("SaliencyMix(alpha=0.2, saliency=SpectralResidual())")
        SaliencyMix(alpha=0.2, saliency=SpectralResidual())
        >>> parse("until(CutMix, 0.9)")
        Switch({0.0: CutMix(), 0.9: NoMix()})
    """
    if not isinstance(text, str):
        raise TypeError(f"Expected text like 'CutMix(alpha=0.2)', but got {type(text).__name__}.")
    try:
        with warnings.catch_warnings(action="ignore"):  # Python's remarks on the style of code: this is none
            tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None
    if not isinstance(tree, ast.Name | ast.Call):
        raise ValueError(f"Expected something like CutMix(alpha=0.2), but got {_short(text)}.")
    return _build(tree, known() | (extra or {}), text)


def _build(node: ast.expr, makers: dict[str, Callable[..., Any]], text: str) -> Any:
    if isinstance(node, ast.Name):
        return _call(_maker(node.id, makers), [], [])
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        maker = _maker(node.func.id, makers)
        positional = [_build(arg, makers, text) for arg in node.args]
        return _call(maker, positional, [(k.arg or "**", _build(k.value, makers, text)) for k in node.keywords])
    if isinstance(node, ast.List | ast.Tuple):
        return tuple(_build(element, makers, text) for element in node.elts)
    if isinstance(node, ast.Dict) and None not in node.keys:
        keys = [_build(key, makers, text) for key in node.keys if key is not None]
        return dict(zip(keys, (_build(value, makers, text) for value in node.values), strict=True))
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise ValueError(
            f"Expected constructor calls with literals, such as CutMix(alpha=0.2), but got {_short(text)}."
        ) from None


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def _maker(name: str, makers: dict[str, Callable[..., Any]]) -> Callable[..., Any]:
    if name not in makers:
        raise ValueError(f"Unknown name {_short(name)}{nearest(name[:80], makers)}")
    return makers[name]


def nearest(name: str, choices: Any) -> str:
    """Return ``; did you mean X?`` with the closest of some names, or what there is where none is close.

    Example:
        >>> nearest("Cutmix", ["CutMix", "MixUp"])
        '; did you mean CutMix?'
    """
    lower = {str(choice).lower(): str(choice) for choice in choices}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {lower[close[0]]}?"
    listed = sorted(lower.values())
    return f"; there are {', '.join(listed)}" if len(listed) <= 20 else "; mixwell.names(kind) lists what there is"


def _call(make: Callable[..., Any], positional: list[Any], named: list[tuple[str, Any]]) -> Any:
    partial = make in LOSSES.values() or (inspect.isclass(make) and issubclass(make, methods.Method))
    settings = [name for name in inspect.signature(make).parameters if not (partial and name in LATER)]
    what, keywords = make.__name__, dict(named)
    if partial and positional:
        raise ValueError(f"{what} takes settings by name here: {', '.join(settings)}.")
    keyword = inspect.Parameter.KEYWORD_ONLY
    if any(p.kind is keyword for p in list(inspect.signature(make).parameters.values())[: len(positional)]):
        first = ", ".join(f"{name}={value!r}" for name, value in zip(settings, positional, strict=False))
        raise ValueError(f"{what} takes settings by name; did you mean {what}({first})?")
    for name, _ in named:
        if name not in settings:
            raise ValueError(f"{what} has no setting {name!r} here{nearest(name, settings)}")
    if len(keywords) < len(named):
        raise ValueError(f"{what} got a setting twice.")
    if partial:
        return functools.partial(make, **keywords)
    try:
        return make(*positional, **keywords)
    except (TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise ValueError(f"{what} cannot be made ({error}): its settings are {', '.join(settings)}, by name.") from None
