"""Methods compiled as a whole compute the same loss and gradients as eager ones, with the oldest torch too."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from learned import Net
from mixwell import (
    ActivationShare,
    AdAutoMix,
    AlignMix,
    AugMix,
    AutoMix,
    Constant,
    CutMix,
    FMix,
    GridLoss,
    HiddenMix,
    Linear,
    Method,
    Mixing,
    MixUp,
    NoMix,
    OneOf,
    PerturbedMixing,
    RegionLoss,
    RegMixup,
    ResizeMix,
    Roll,
    SaliencyMix,
    SAMix,
    SemanticShare,
    SnapMix,
    Sometimes,
    SUMix,
)

CUT, UP = CutMix(alpha=Constant(0.3), pairing=Roll()), MixUp(alpha=Constant(0.3), pairing=Roll())
# The number of graphs of two steps with torch 2.15; older versions may need more.
CASES: dict[str, tuple[int, Callable[[nn.Module], Method]]] = {
    "CutMix": (1, lambda net: Mixing(net, CutMix())),
    "OneOf": (4, lambda net: Mixing(net, OneOf([MixUp(), Sometimes(FMix(), p=0.5), ResizeMix(), NoMix()]))),
    "SnapMix": (12, lambda net: Mixing(net, SnapMix(pairing=Roll()))),
    "SaliencyMix": (1, lambda net: Mixing(net, SaliencyMix())),
    "schedule": (2, lambda net: Mixing(net, MixUp(alpha=Linear(0.1, 2.0)))),
    "SemanticShare": (1, lambda net: Mixing(net, CUT, label=SemanticShare())),
    "ActivationShare": (1, lambda net: Mixing(net, CUT, label=ActivationShare())),
    "SUMix": (2, lambda net: SUMix(net, CUT, num_classes=10)),
    "SUMix with features": (2, lambda net: SUMix(net, CUT, num_classes=10, label=ActivationShare())),
    "AutoMix": (2, lambda net: AutoMix(net, UP)),
    "AutoMix with features": (2, lambda net: AutoMix(net, UP, label=ActivationShare())),
    "SAMix": (2, lambda net: SAMix(net, UP)),
    "AdAutoMix": (2, lambda net: AdAutoMix(net, UP, sources=3)),
    "HiddenMix": (2, lambda net: HiddenMix(net, UP)),
    "AlignMix": (7, lambda net: AlignMix(net, UP)),
    "RegMixup": (1, lambda net: RegMixup(net, UP)),
    "AugMix": (2, AugMix),
    "GridLoss": (1, lambda net: GridLoss(net, CUT, num_classes=10)),
    "RegionLoss": (1, lambda net: RegionLoss(net, CUT, num_classes=10)),
    "PerturbedMixing": (5, lambda net: PerturbedMixing(net, CUT)),
}
RECENT = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 15)
QUICK = {"CutMix", "SemanticShare", "SUMix", "AutoMix"} if RECENT else CASES.keys()  # old versions fail more often


@pytest.fixture
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by the compiler itself
@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in CASES])
def test_method(name: str, fresh: None) -> None:
    """Two training steps: the second has another progress, and what the first one checked is not checked again."""
    limit, make = CASES[name]
    eager, graphs = make(Net(norm=True)), []
    compiled = copy.deepcopy(eager)
    step = torch.compile(compiled, backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    images, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 9])
    for progress in (0.1, 0.2):
        found = []
        for method, forward in ((eager, eager), (compiled, step)):
            torch.manual_seed(3)
            out = forward(images, labels)
            out["loss"].backward()
            grads = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
            found.append([out["loss"].detach(), out["output"].detach(), grads])
            method.after_step(progress)
        torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
    assert graphs and (not RECENT or len(graphs) <= limit)
