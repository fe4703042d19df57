"""Transforms for ``torchvision.transforms.v2`` that mix batches: any policy, and drop-ins for its MixUp and CutMix."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.data import default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2._utils import _parse_labels_getter

from mixwell.batch import Batch, MixedBatch, Pairs
from mixwell.normalization import Normalization
from mixwell.pairing import Roll
from mixwell.plan import BlendPlan, BoxPlan, MixedBoxes, Plan, mix_boxes
from mixwell.policy import BatchPolicy, Model

LabelsGetter = Callable[[Any], Any] | str | None


class BatchTransform(v2.Transform):
    """The base of transforms that mix a batch: what to do with its images, labels, masks and boxes.

    A subclass draws the plan. The call takes what torchvision's transforms take:

    * ``(images, labels)``, or any nested structure that holds images, labels and ``tv_tensors.Mask``;
    * ``(images, targets)`` for detection, where ``targets`` is a list with a dict for every image that holds one
      ``tv_tensors.BoundingBoxes``. Entries with one row per box, as labels, areas and instance masks, follow their
      boxes, and ``"weights"``, the visible share of every box, is added.

    Args:
        num_classes: Number of classes, for class indices as labels; ``None`` where labels are dense.
        labels_getter: Where the labels are, as in torchvision: ``"default"`` takes the second input or its entry named
            like "labels", a callable takes the inputs, and ``None`` means that there are none.
        min_visible: Smallest visible share of a bounding box that is kept.
    """

    def __init__(self, num_classes: int | None, labels_getter: LabelsGetter, min_visible: float) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.min_visible = min_visible
        self.labels_of = _parse_labels_getter(labels_getter)

    @abstractmethod
    def draw(self, images: Tensor, labels: Tensor) -> Plan:
        """Draw a plan for images ``(B, C, H, W)``."""

    def forward(self, *inputs: Any) -> Any:
        """Mix a batch; see the class for what it may hold.

        Raises:
            ValueError: There are no images, or labels are missing or do not fit.
        """
        sample = inputs if len(inputs) != 1 else inputs[0]
        return self._detection(*sample) if _is_detection(sample) else self._tree(sample)

    def collate(self, rows: Sequence[Any]) -> Any:
        """Collate samples and mix them: the ``collate_fn`` of a ``DataLoader``."""
        if _is_detection((None, [rows[0][1]] if isinstance(rows[0], Sequence) and len(rows[0]) == 2 else None)):
            return self(torch.stack([image for image, _ in rows]), [target for _, target in rows])
        (first, _), (leaves, spec) = tree_flatten(rows[0]), tree_flatten(default_collate(list(rows)))
        for k, (one, leaf) in enumerate(zip(first, leaves, strict=True)):
            if isinstance(one, tv_tensors.TVTensor):  # stacking tensors forgets their kind
                leaves[k] = _wrap(leaf, like=one)
        return self(tree_unflatten(leaves, spec))

    def _tree(self, sample: Any) -> Any:
        leaves, spec = tree_flatten(sample)
        labels = self.labels_of(sample)
        place = next((k for k, leaf in enumerate(leaves) if leaf is labels), None)
        images = _images_among(leaves, place)
        given = torch.zeros(len(leaves[images[0]]), dtype=torch.int64, device=leaves[images[0]].device)
        given = given if labels is None else labels
        if given.dim() == 2 and not given.is_floating_point():
            given = given.float()
        plan = self.draw(_frames_as_channels(leaves[images[0]]), given)
        for k, leaf in enumerate(leaves):
            if k in images:
                mixed = plan.apply(_frames_as_channels(leaf)).reshape(leaf.shape)
                leaves[k] = _wrap(mixed, like=leaf) if isinstance(leaf, tv_tensors.TVTensor) else mixed
            elif isinstance(leaf, tv_tensors.Mask):
                leaves[k] = _wrap(plan.apply_segmentation(leaf.as_subclass(Tensor)), like=leaf)
            elif isinstance(leaf, tv_tensors.BoundingBoxes):
                raise ValueError("Bounding boxes need a list of targets: pass (images, [{'boxes': ..., ...}, ...]).")
            elif k == place:
                leaves[k] = self._targets(plan, given)
        return tree_unflatten(leaves, spec)

    def _targets(self, plan: Plan, labels: Tensor) -> Tensor:
        classes = self.num_classes if labels.dim() == 1 else labels.shape[1]
        if classes is None:
            raise ValueError("num_classes must be given where labels are class indices.")
        return MixedBatch(labels, plan.source_labels(labels), plan.weights, plan).targets(classes)

    def _detection(self, images: Tensor, targets: Sequence[Mapping[str, Any]]) -> tuple[Tensor, list[dict[str, Any]]]:
        plan = self.draw(images.as_subclass(Tensor), torch.zeros(len(images), dtype=torch.int64, device=images.device))
        name = next(key for key, value in targets[0].items() if isinstance(value, tv_tensors.BoundingBoxes))
        corners = [
            v2.functional.convert_bounding_box_format(target[name], new_format=tv_tensors.BoundingBoxFormat.XYXY)
            for target in targets
        ]
        size = (images.shape[2], images.shape[3])
        boxes = mix_boxes(plan, [each.as_subclass(Tensor) for each in corners], size, self.min_visible)
        shares = plan.share(size)
        mixed = [_mixed_target(plan, row, found, name, targets, shares[row]) for row, found in enumerate(boxes)]
        pixels = plan.apply(images.as_subclass(Tensor))
        return (_wrap(pixels, like=images) if isinstance(images, tv_tensors.Image) else pixels), mixed


class Mix(BatchTransform):
    """Any policy as a transform of torchvision.

    Use it after the loader, in ``v2.Compose`` and ``v2.RandomChoice``, or as ``collate_fn=Mix(...).collate``, also with
    worker processes. Numbers are drawn from torch's global generator, which a ``DataLoader`` seeds in every worker.

    Args:
        policy: The policy.
        num_classes: See :class:`BatchTransform`.
        labels_getter: See :class:`BatchTransform`.
        min_visible: See :class:`BatchTransform`.
        model: The classifier, for policies that run it to find salient regions.
        normalization: How float images were normalized, for policies that compute in pixel values.

    Example:
        >>> from mixwell import FMix
        >>> mix = v2.RandomChoice([Mix(FMix(), num_classes=10), v2.MixUp(num_classes=10)])
        >>> images, targets = mix(torch.rand(4, 3, 8, 8), torch.arange(4))
        >>> targets.shape
        torch.Size([4, 10])
    """

    def __init__(
        self,
        policy: BatchPolicy,
        num_classes: int | None = None,
        labels_getter: LabelsGetter = "default",
        min_visible: float = 0.1,
        model: Model | None = None,
        normalization: Normalization | None = None,
    ) -> None:
        super().__init__(num_classes, labels_getter, min_visible)
        self.policy = policy
        self.normalization = normalization
        self._model = (model,)  # in a tuple: the transform does not own the classifier, so it is not a submodule

    def draw(self, images: Tensor, labels: Tensor) -> Plan:
        """See :meth:`BatchTransform.draw`."""
        return self.policy.draw(images, labels, model=self._model[0], normalization=self.normalization)

    def extra_repr(self) -> str:
        """Return the settings for the repr."""
        return f"{self.policy!r}, num_classes={self.num_classes}"


class _AsTorchvision(BatchTransform):
    """Mixes every image with the one before it, with the random numbers of a transform of torchvision."""

    kind: ClassVar[type[v2.MixUp] | type[v2.CutMix]]

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        num_classes: int | None = None,
        labels_getter: LabelsGetter = "default",
        min_visible: float = 0.1,
    ) -> None:
        super().__init__(num_classes, labels_getter, min_visible)
        self._theirs = self.kind(alpha=alpha, num_classes=num_classes)


class MixUp(_AsTorchvision):
    """``v2.MixUp`` that takes masks and boxes too; the same seed gives the same images and labels.

    Args:
        alpha: Alpha of the Beta distribution.
        num_classes: See :class:`BatchTransform`.
        labels_getter: See :class:`BatchTransform`.
        min_visible: See :class:`BatchTransform`.

    Example:
        >>> images, targets = MixUp(num_classes=10)(torch.rand(4, 3, 8, 8), torch.arange(4))
        >>> targets.sum(1)
        tensor([1., 1., 1., 1.])
    """

    kind = v2.MixUp

    def draw(self, images: Tensor, labels: Tensor) -> Plan:
        """See :meth:`BatchTransform.draw`."""
        return BlendPlan(_rolled(images, labels, self._theirs.make_params([images])["lam"]))


class CutMix(_AsTorchvision):
    """``v2.CutMix`` that takes masks and boxes too; the same seed gives the same images and labels.

    Args:
        alpha: Alpha of the Beta distribution.
        num_classes: See :class:`BatchTransform`.
        labels_getter: See :class:`BatchTransform`.
        min_visible: See :class:`BatchTransform`.

    Example:
        >>> images, targets = CutMix(num_classes=10)(torch.rand(4, 3, 8, 8), torch.arange(4))
        >>> targets.sum(1)
        tensor([1., 1., 1., 1.])
    """

    kind = v2.CutMix

    def draw(self, images: Tensor, labels: Tensor) -> Plan:
        """See :meth:`BatchTransform.draw`."""
        params = self._theirs.make_params([images])
        left, top, right, bottom = params["box"]
        boxes = torch.tensor([[top, bottom, left, right]], device=images.device)
        return BoxPlan(_rolled(images, labels, params["lam_adjusted"]), boxes)


def _rolled(images: Tensor, labels: Tensor, lam: float) -> Pairs:
    batch = Batch(images, labels)
    return Pairs(Roll()(batch), torch.tensor([lam], device=images.device), batch.size)


def _is_detection(sample: Any) -> bool:
    if not (isinstance(sample, Sequence) and len(sample) == 2 and isinstance(sample[1], Sequence) and sample[1]):
        return False
    first = sample[1][0]
    return isinstance(first, Mapping) and any(isinstance(v, tv_tensors.BoundingBoxes) for v in first.values())


def _images_among(leaves: list[Any], labels: int | None) -> list[int]:
    """Return which leaves are images: all of torchvision's types, or else the first plain tensor."""
    typed = [k for k, leaf in enumerate(leaves) if isinstance(leaf, tv_tensors.Image | tv_tensors.Video)]
    plain = [k for k, leaf in enumerate(leaves) if type(leaf) is Tensor and k != labels]
    if not (typed or plain):
        raise ValueError("There are no images: pass a tensor (B, C, H, W), tv_tensors.Image or tv_tensors.Video.")
    return typed or plain[:1]


def _frames_as_channels(images: Tensor) -> Tensor:
    """Return images ``(B, C, H, W)``, with the frames of videos ``(B, T, C, H, W)`` as channels."""
    plain = images.as_subclass(Tensor)
    return plain.flatten(1, 2) if isinstance(images, tv_tensors.Video) else plain


def _wrap(tensor: Tensor, like: Any) -> Any:
    """Return a tensor as the kind of tensor that ``like`` is."""
    return tv_tensors.wrap(tensor, like=like)  # type: ignore[call-arg]  # the annotations of torchvision lack it


def _mixed_target(
    plan: Plan, row: int, found: MixedBoxes, name: str, targets: Sequence[Mapping[str, Any]], shares: Tensor
) -> dict[str, Any]:
    """Return the target of a mixed image: entries with one row per box follow the boxes, others are the anchor's."""
    own = targets[row]
    like = own[name]
    settings: dict[str, Any] = {"format": tv_tensors.BoundingBoxFormat.XYXY, "canvas_size": like.canvas_size}
    boxes = tv_tensors.BoundingBoxes(found.boxes, **settings)
    mixed = {**own, name: v2.functional.convert_bounding_box_format(boxes, new_format=like.format)}
    mixed["weights"] = found.weights
    picks = list(zip(found.rows.tolist(), found.indices.tolist(), strict=True))
    for key, value in own.items():
        if key == name or not (isinstance(value, Tensor) and value.dim() and len(value) == len(like)):
            continue
        rows = [targets[source][key][index].as_subclass(Tensor) for source, index in picks]
        if isinstance(value, tv_tensors.Mask):
            if plan.moves_pixels:
                raise ValueError("Instance masks cannot follow a policy that moves pixels, such as ResizeMix.")
            shown = {r: shares[plan.sources[row] == r].sum(0) > 0 for r in set(found.rows.tolist())}
            rows = [mask * shown[source] for mask, (source, _) in zip(rows, picks, strict=True)]
        picked = torch.stack(rows) if rows else value.as_subclass(Tensor)[:0]
        mixed[key] = _wrap(picked, like=value) if isinstance(value, tv_tensors.TVTensor) else picked
    return mixed
