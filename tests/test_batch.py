"""Mixed batches move as one object, also out of the workers of a data loader."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree
from torch.utils.data import DataLoader, TensorDataset, default_collate

from cases import mix
from catalogue import POLICIES
from mixwell import BatchPolicy, CutMix, MixedBatch, MixUp, Plan

ROWS = TensorDataset(torch.rand(12, 3, 8, 8), torch.arange(12) % 5)


def tensors(value: object) -> list[Tensor]:
    """Find every tensor that an object holds, however deep."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, MixedBatch):
        value = {name: getattr(value, name) for name in MixedBatch.__slots__}
    elif isinstance(value, Plan):
        value = dict(sorted(vars(value).items()))
    members = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return [tensor for member in members for tensor in tensors(member)]


def mixed_by(policy: BatchPolicy) -> MixedBatch:
    images, labels = torch.rand(4, 3, 20, 20), torch.arange(4)
    return mix(policy, images, labels)


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_everything_moves(policy: BatchPolicy) -> None:
    """All tensors, those of the plan too, go to the device; nothing of it is lost, and the plan mixes as before."""
    mixed = mixed_by(policy)
    assert all(tensor.device.type == "meta" for tensor in tensors(mixed.to("meta")))
    restored = pickle.loads(pickle.dumps(mixed))  # noqa: S301 (it was written in the line itself)
    for copy in (mixed.to("cpu"), restored, _pytree.tree_map(lambda t: t, mixed)):
        assert repr(copy) == repr(mixed) and len(tensors(copy)) == len(tensors(mixed))
        assert all(a.equal(b) for a, b in zip(tensors(copy), tensors(mixed), strict=True))
        images = torch.rand(4, 3, 20, 20)
        assert copy.plan.apply(images).equal(mixed.plan.apply(images))
        assert copy.plan.state_dict().keys() == mixed.plan.state_dict().keys()


def test_pin_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor is pinned, which a DataLoader does through the method of that name."""
    pinned = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    mixed = mixed_by(CutMix())
    assert isinstance(mixed.pin_memory(), MixedBatch)
    assert len(pinned) == len(tensors(mixed))


def collate(rows: list[tuple[Tensor, Tensor]]) -> MixedBatch:
    return CutMix()(*default_collate(rows))


@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
@pytest.mark.parametrize("workers", [0, 2])
def test_mixing_in_collate_fn(workers: int) -> None:
    """In worker processes too, with pinned memory asked for; workers draw different boxes."""
    loader = DataLoader(ROWS, batch_size=4, collate_fn=collate, num_workers=workers, pin_memory=True)
    batches = list(loader)
    assert [type(batch) for batch in batches] == [MixedBatch] * 3
    assert all(
        batch.plan.apply(ROWS.tensors[0][4 * k : 4 * k + 4]).equal(batch.images) for k, batch in enumerate(batches)
    )
    assert len({tuple(batch.plan.boxes[0, 0].tolist()) for batch in batches}) > 1


def test_default_collation() -> None:
    """One mixed batch passes through; several are refused with what to do."""
    mixed = mixed_by(MixUp())
    assert default_collate([mixed]) is mixed
    with pytest.raises(TypeError, match=r"got 2 mixed batches.*collate_fn=lambda rows: policy"):
        default_collate([mixed, mixed])


class Mixed(torch.utils.data.IterableDataset):
    """Mixes in the worker with a generator that is made in the parent or in the worker."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator

    def __iter__(self) -> Iterator[str]:
        generator = self.generator or torch.Generator().manual_seed(torch.initial_seed())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            MixUp()(torch.rand(4, 3, 8, 8), torch.arange(4), generator=generator)
        yield str([str(warning.message) for warning in caught])


def test_generator_of_another_process() -> None:
    """A generator that was copied into the workers is noticed; one that a worker seeds for itself is not."""
    shared = list(DataLoader(Mixed(torch.Generator().manual_seed(0)), batch_size=None, num_workers=2))
    own = list(DataLoader(Mixed(None), batch_size=None, num_workers=2))
    assert all("copied into each of them" in text and "generator=None" in text for text in shared)
    assert own == ["[]"] * 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MixUp()(torch.rand(4, 3, 8, 8), torch.arange(4), generator=torch.Generator())
