"""Text to objects and back; what is no settings is refused."""

from __future__ import annotations

import functools
import inspect
import random

import pytest
import torch

import mixwell
from mixwell import (
    AnyShape,
    Beta,
    Constant,
    CutMix,
    FMix,
    Folded,
    Given,
    InputGradient,
    Mixing,
    MixUp,
    OneOf,
    Permutation,
    ResizeMix,
    Reverse,
    Roll,
    SaliencyMix,
    SemanticShare,
    Sometimes,
    SpectralResidual,
    SUMix,
    TwoHotTargets,
    Uniform,
    Value,
    binary_cross_entropy,
    names,
    parse,
)
from mixwell.labels import Released
from mixwell.parse import KINDS, known, nearest
from steps import Net, data

VALUES = [
    CutMix(),
    CutMix(alpha=0.2, box="inside", minmax=(0.2, 0.8), correct_lam=False),
    CutMix(alpha=Constant(0.5), pairing=Reverse(), scope="pair"),
    MixUp(alpha=Folded(Uniform(0.1, 0.9)), pairing=Roll(shift=-2)),
    MixUp(pairing=Given([1, 0])),
    MixUp(alpha=1e-05),
    ResizeMix(alpha=Beta(2, beta=3.5), interpolation="area"),
    FMix(soft=0.25, spectrum="published"),
    SaliencyMix(saliency=None, levels=None),
    SaliencyMix(saliency=SpectralResidual(), scope="batch", levels=255),
    OneOf([MixUp(), Sometimes(CutMix(), p=0.25), OneOf([FMix()])], weights=[1, 2.5, 0], scope="sample"),
    SemanticShare(similarity=Released(sign=-1, reference=True), kappa=0.5),
    SemanticShare(similarity="agreement"),
    TwoHotTargets(clamp=False),
    AnyShape(CutMix(alpha=0.2), dims=3),
    AnyShape(OneOf([MixUp(), Sometimes(FMix(), p=0.5)]), dims=1),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_repr_reads_back(value: Value) -> None:
    """To an equal object with the same repr."""
    assert parse(repr(value)) == value
    assert repr(parse(repr(value))) == repr(value)


# Policies of policies, which have no members by default.
WITH_MEMBERS = {"OneOf": "OneOf([NoMix])", "Step": "Step({0.0: 1.0})", "Switch": "Switch({0.0: NoMix})"}


def random_value(rng: random.Random, depth: int = 3) -> Value:
    """Make a policy of random settings, nested."""

    def ratio(deep: int = 2) -> object:
        made = [Beta(rng.uniform(0.01, 5)), Uniform(0.1, rng.uniform(0.2, 1)), Constant(rng.random())]
        return rng.choice([rng.uniform(1e-9, 1e3), *made, *([Folded(Beta(rng.randint(1, 9)))] * deep)])

    pairing = rng.choice(
        [Permutation(), Reverse(), Roll(rng.randint(-5, 5)), Given([rng.randint(0, 9)] * rng.randint(0, 3))]
    )
    basic = {"alpha": ratio(), "pairing": pairing, "scope": rng.choice(["batch", "sample"])}
    if depth and rng.random() < 0.6:
        members = [random_value(rng, depth - 1) for _ in range(rng.randint(1, 3))]
        weights = rng.choice([None, [rng.randint(1, 5) for _ in members]])
        return rng.choice([OneOf(members, weights=weights), Sometimes(members[0], p=rng.random())])
    return rng.choice(
        [
            MixUp(**basic),
            CutMix(**basic, minmax=rng.choice([None, (0.1, 0.9)]), correct_lam=rng.random() < 0.5),
            ResizeMix(**basic, box=rng.choice(["inside", "clip"])),
            SaliencyMix(**basic, saliency=rng.choice([None, SpectralResidual(), InputGradient()])),
        ]
    )


def test_random_values_read_back() -> None:
    """Three hundred of them, deeply nested."""
    rng = random.Random(0)
    for _ in range(300):
        value = random_value(rng)
        assert parse(repr(value)) == value


@pytest.mark.parametrize("kind", KINDS)
def test_every_name_of_a_kind_is_known(kind: str) -> None:
    """Sorted, made without settings where there is a default, and reading back."""
    found = names(kind)
    assert found and found == sorted(found)
    for name in found:
        made = parse(WITH_MEMBERS.get(name, name))
        if isinstance(made, functools.partial):
            assert made.func is known()[name] and made.keywords == {}
        else:
            assert isinstance(made, KINDS[kind]) and parse(repr(made)) == made


def test_names() -> None:
    """What the issue and the README promise; nothing abstract."""
    assert {"CutMix", "FMix", "MixUp", "NoMix", "OneOf", "ResizeMix", "SaliencyMix", "Sometimes"} <= set(
        names("policy")
    )
    assert {"Mixing", "SUMix"} <= set(names("method"))
    assert {"PixelShare", "SemanticShare"} <= set(names("label"))
    assert {"BinaryCrossEntropy", "CrossEntropy", "FocalLoss"} <= set(names("loss"))
    assert not any(inspect.isabstract(cls) for cls in known().values())
    with pytest.raises(ValueError, match=r"kind must be one of policy, .* or shorthand, but got 'models'"):
        names("models")


def test_every_public_setting_is_known() -> None:
    """A class that is exported can be named in text."""
    exported = {name for name in mixwell.__all__ if inspect.isclass(getattr(mixwell, name))}
    settings = {n for n in exported if issubclass(getattr(mixwell, n), tuple(KINDS.values()))}
    missing = {name for name in settings if name not in known() and not inspect.isabstract(getattr(mixwell, name))}
    assert missing == set()


def test_methods_come_as_partials() -> None:
    """They wait for the model; settings may be objects."""
    make = parse("SUMix(gamma=1.0, label=SemanticShare(similarity=Released(sign=-1)))")
    method = make(Net(), CutMix(), num_classes=10)
    assert isinstance(method, SUMix) and method.gamma == 1.0 and method.label.similarity == Released(sign=-1)
    assert isinstance(parse("SUMix")(Net(), CutMix(), num_classes=10), SUMix)
    assert isinstance(parse("Mixing")(Net(), None, num_classes=10), Mixing)
    labelled = parse("Mixing(label=SemanticShare(kappa=0.5))")(Net(), CutMix(), num_classes=10)
    assert labelled.label == SemanticShare(kappa=0.5)


def test_losses_are_settings() -> None:
    """Of a method, by their repr."""
    images, labels = data()
    make = parse("Mixing(loss=BinaryCrossEntropy(targets=TwoHotTargets(scale=0.5), classes='sum'))")
    mixed = MixUp(alpha=Constant(0.3), pairing=Roll())(images, labels)
    logits = torch.randn(8, 10)
    got = make(Net(), MixUp(), num_classes=10).loss(logits, mixed)
    torch.testing.assert_close(
        got, binary_cross_entropy(logits, mixed, targets=TwoHotTargets(scale=0.5), classes="sum")
    )


def test_lenient_reading() -> None:
    """Space, line breaks, comments, lists for tuples, positional where the class allows it."""
    assert parse("  CutMix( alpha = 0.2 ,\n) # as published ") == CutMix(alpha=0.2)
    assert parse("OneOf([MixUp, CutMix()], weights=[1, 3])") == OneOf((MixUp(), CutMix()), weights=(1, 3))
    assert parse("MixUp(alpha=Beta(0.2, beta=+3))") == MixUp(alpha=Beta(0.2, beta=3))
    assert parse("Sometimes(CutMix)") == Sometimes(CutMix())


def test_classes_of_ones_own() -> None:
    """Are handed in, and may not be known otherwise."""

    class MyMixUp(MixUp):
        strength: float = 1.0

    assert parse("OneOf([MyMixUp(strength=2.0)])", {"MyMixUp": MyMixUp}) == OneOf([MyMixUp(strength=2.0)])
    with pytest.raises(ValueError, match=r"Unknown name 'MyMixUp'; did you mean MixUp\?"):
        parse("MyMixUp()")


HOSTILE = [
    "__import__('os').system('true')",
    "(lambda: CutMix())()",
    "CutMix.__init__",
    "CutMix().__class__",
    "CutMix()()",
    "CutMix(alpha=__import__('os'))",
    "CutMix(alpha=open('x'))",
    "CutMix(alpha=(lambda: 1)())",
    "CutMix(alpha=[x for x in (1,)])",
    "CutMix(alpha=f'{1}')",
    "CutMix(alpha=1 if 1 else 2)",
    "CutMix(alpha=(y := 1))",
    "CutMix(*[0.2])",
    "CutMix(**{'alpha': 0.2})",
    "CutMix(alpha=0.2, alpha=0.3)",
    "CutMix(alpha={CutMix(): 1})",
    "CutMix(alpha=2**99999999)",
    "OneOf([CutMix()] * 99999999)",
    "CutMix(alpha='0.2')",
    "CutMix(alpha=1j)",
    "CutMix(minmax=(0.1,))",
    "CutMix(minmax=3)",
    "Given('ab')",
    "Given((1e999,))",
    "import os",
    "CutMix(); MixUp()",
    "CutMix(",
    "",
    "   ",
    "0.2",
    "None",
    "[CutMix()]",
    "'CutMix()'",
    "nan",
    "CutMix\0",
    "CutMix(alpha=\ud800)",
    "BatchPolicy()",
    "Policy",
    "Method",
    "Value()",
    "dict(a=1)",
    "int",
    "eval",
    "SUMix(model=1)",
    "SUMix(policy=CutMix())",
    "SUMix(0.5)",
    "SUMix(num_classes=3)",
    "cross_entropy()",
    "CutMix(alpha=1" + "0" * 4000 + ")",
    "CutMix(alpha=1e400)",
    "LearnedMask(path='" + "a" * 5000 + "')",
    "LearnedMask(path='/')",
    "LearnedMask(path='a\\0b')",
    "Switch({[0]: MixUp})",
    "Switch({{}: MixUp})",
    "Switch({0.0: MixUp, **{}})",
    "Switch({MixUp(): 1})",
    "Step({0.0: MixUp})",
    "Sometimes(" * 90 + "zzz" + ")" * 90,
    "(" * 5000,
    "Sometimes(" * 3000 + ")" * 3000,
    "CutMix(alpha=" + "-" * 50000 + "1)",
    "CutMix(alpha=" + "1+" * 50000 + "1)",
    "MixUp(alpha=" + "9" * 100000 + ")",
    *(f"MixUp(alpha={sign * depth}1)" for sign in ("1+", "-") for depth in (100, 900, 1500)),
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:40]))
def test_everything_else_is_refused(text: str) -> None:
    """With a ValueError of one short line, and nothing is run."""
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the texts differ; their form is checked below)
        parse(text)
    assert "\n" not in str(error.value) and 10 < len(str(error.value)) < 600


def test_what_is_no_text_is_refused() -> None:
    """Such as an object that was made already."""
    with pytest.raises(TypeError, match=r"Expected a str like 'CutMix.*', but got CutMix"):
        parse(CutMix())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Cutmx(alpha=1)", r"Unknown name 'Cutmx'; did you mean CutMix\?$"),
        ("cutmix", r"Unknown name 'cutmix'; did you mean CutMix\?$"),
        ("CutMix(alpah=1)", r"CutMix has no setting 'alpah' here; did you mean alpha\?$"),
        ("MixUp(alpha=Betta(1))", r"Unknown name 'Betta'; did you mean Beta\?$"),
        ("SUMix(gama=1)", r"SUMix has no setting 'gama' here; did you mean gamma\?$"),
        ("CutMix(0.2)", r"CutMix takes its settings by name, as in CutMix\(alpha=0\.2\): alpha, pairing, "),
        ("MixUp(Beta(0.5))", r"as in MixUp\(alpha=Beta\(alpha=0\.5\)\): alpha, pairing, "),
        ("CutMix(1, 2)", r"as in CutMix\(alpha=\.\.\.\): alpha, pairing, "),
        ("mw.Mixup", r"Unknown name 'mw\.Mixup'; did you mean MixUp\?$"),
        ("mixwell.CutMix(alpha=0.2)", r"Unknown name 'mixwell\.CutMix'; did you mean CutMix\?$"),
        ("OneOf([mw.CutMix(), MixUp()])", r"Unknown name 'mw\.CutMix'; did you mean CutMix\?$"),
        ("MixUp(alpha=mixwell.beta(2))", r"Unknown name 'mixwell\.beta'; did you mean Beta\?$"),
        ("CutMix(alpha=-1)", "alpha of a Beta distribution must be a positive finite number, .*, but got -1"),
        ("SUMix(CutMix())", "SUMix takes its settings by name, as in .*: .*gamma, .*classifier"),
        ("swich_mix()", r"Unknown name 'swich_mix'; did you mean switch_mix\?$"),
        ("switch_mix(prb=1)", r"switch_mix has no setting 'prb' here; did you mean prob\?$"),
        ("qqqqq", r"Unknown name 'qqqqq'; mixwell\.names\(kind\) lists all names"),
    ],
)
def test_the_nearest_right_name_is_named(text: str, sentence: str) -> None:
    """One sentence that says what to type."""
    with pytest.raises(ValueError, match=sentence):
        parse(text)


def test_nearest() -> None:
    """Case does not count; where nothing is near, everything is listed."""
    assert nearest("CUTMIX", ["SaliencyMix", "CutMix"]) == "; did you mean CutMix?"
    assert nearest("saliencymix", ["SaliencyMix", "CutMix"]) == "; did you mean SaliencyMix?"
    assert nearest("zzz", ["b", "a"]) == "; known names: a, b"
