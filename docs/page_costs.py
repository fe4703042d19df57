"""What policies and methods cost, as text for their pages; ``benchmarks/costs.py`` measures it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from docstrings import table

FILE = Path(__file__).parent / "policies" / "costs.json"
NOT_MEASURED = "not measured"
# Methods that benchmarks/costs.py does not measure.
ELSEWHERE = {
    "SUMix": "See [SUMix](../sumix.md#cost).",
    **dict.fromkeys(("AdAutoMix", "AutoMix", "SAMix", "SAMixPretrained"), "See [AutoMix](../automix.md#cost)."),
    "Mixing": "One forward and one backward pass, and what the policy and the label policy cost.",
}


# Policies whose cost depends on the images.
VARYING = {
    "SuperMix": "At most 51 forward and 50 backward passes of the model, or of the teacher, per batch: `max_iter` of "
    "each, and one forward pass over the unmixed images. On a CPU, a batch ends when all its images are finished."
}


class Costs:
    """The measured costs of policies and methods, as text.

    Attributes:
        batches: Shape and model of each batch that was measured.
        policies: Costs by the name of the policy.
        methods: Costs by the name of the method.
    """

    def __init__(self) -> None:
        content: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
        self.batches: list[dict[str, Any]] = content["batches"]
        self.policies: dict[str, Any] = content["policies"]
        self.methods: dict[str, Any] = content["methods"]
        self._machine: dict[str, Any] = content["machine"]

    @property
    def titles(self) -> list[str]:
        """Return the titles of the columns of :meth:`cells`."""
        return ["extra forward passes", "extra backward passes", *(f"ms, {_size(b['shape'])}" for b in self.batches)]

    def cells(self, name: str) -> list[str]:
        """Return the cost of a policy or method as cells of a table."""
        cost = self.policies.get(name) or self.methods.get(name)
        if cost is None:
            return [NOT_MEASURED, *[""] * (1 + len(self.batches))]
        times = [f"{t['ms']:g} ({t['plain_ms']:g})" if "plain_ms" in t else f"{t['ms']:g}" for t in cost["batches"]]
        times += [NOT_MEASURED] * (len(self.batches) - len(times))
        return [f"{cost['forwards']:g}", f"{cost['backwards']:g}", *times]

    def of_policy(self, name: str) -> Iterator[str]:
        """Yield the paragraphs on a policy's cost."""
        cost = self.policies.get(name)
        if cost is None:
            yield VARYING.get(name, "Not measured.")
            return
        given = "given_ms" in cost["batches"][0]
        whose = "the model, or of the saliency teacher," if cost["forwards"] else "the model"
        yield f"Extra passes of {whose} per batch: {cost['forwards']:g} forward, {cost['backwards']:g} backward."
        rows = [
            [
                _size(batch["shape"]) + (f", {batch['model']}" if cost["forwards"] else ""),
                *(f"{times[key]:g} ms" for key in ("ms", "given_ms")[: 1 + given]),
                f"{batch['copy_ms']:g} ms",
            ]
            for batch, times in zip(self.batches, cost["batches"], strict=True)
        ]
        mixing = ["mixing, with saliency", "mixing alone"] if given else ["mixing"]
        yield table(["batch, float32", *mixing, "copying the batch"], rows).rstrip()
        yield self.measured(f"Time per batch of `{cost['policy']}`, into a reused buffer.", cost)

    def of_method(self, name: str) -> Iterator[str]:
        """Yield the paragraphs on a method's cost."""
        cost = self.methods.get(name)
        if cost is None:
            yield ELSEWHERE[name]
            return
        yield f"Extra passes of the model per batch: {cost['forwards']:g} forward, {cost['backwards']:g} backward."
        rows = []
        for place, batch in enumerate(self.batches):
            times = cost["batches"][place : place + 1]
            cells = [f"{each[key]:g} ms" for each in times for key in ("ms", "plain_ms")] or [NOT_MEASURED, ""]
            rows.append([f"{_size(batch['shape'])}, {batch['model']}", *cells])
        yield table(["batch, float32", "step of this method", "step without mixing"], rows).rstrip()
        yield self.measured("Time of forward and backward pass per batch.", cost)

    def measured(self, words: str, cost: Mapping[str, Any] = MappingProxyType({})) -> str:
        """Return a sentence, followed by how the costs, or those of one entry, were measured."""
        about = cost.get("machine", self._machine)
        return (
            f"{words} Measured with `{about['command']}` on {about['date']}: {about['clock']}, torch {about['torch']}, "
            f"{about['threads']} thread{'s' * (about['threads'] > 1)}, {about['cpu']}, system load {about['load']:g}."
        )


def _size(shape: list[int]) -> str:
    return " × ".join(map(str, shape))
