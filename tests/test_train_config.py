"""Settings: round trips, ranges, what is built from them, and the learning-rate schedule against its formula."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

pytest.importorskip("accelerate")
from torch import nn

from mixwell.train import average, build, checkpoint
from mixwell.train.config import Config
from mixwell.train.data import DataSet, Split
from mixwell.train.errors import RunError
from mixwell.train.recipes import RECIPES

SPLIT = Split(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4))
DATA = DataSet(SPLIT, SPLIT, SPLIT, list("abcd"), 3, (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_recipes(recipe):
    config = recipe()
    assert RECIPES[config.recipe] is recipe and recipe.__doc__
    assert Config.read(config.json()) == config
    assert config.differences(dataclasses.replace(config, lr=7.0)) == [f"lr is {config.lr}, not 7.0"]


def test_the_papers_recipe():
    """OpenMixup's CIFAR-100 config of SUMix: every number that decides the result."""
    config = RECIPES["cifar100_resnet18"]()
    assert (config.lr, config.momentum, config.weight_decay, config.batch_size) == (0.1, 0.9, 1e-4, 100)
    assert (config.lr_min, config.warmup, config.crop, config.flip, config.clip, config.ema) == (0, 0, 4, True, 0, 0)
    assert (config.policy, config.method, config.decay_all) == ("CutMix(alpha=0.2)", "SUMix", True)


def test_every_field_is_explained_and_about_thirty():
    fields = dataclasses.fields(Config)
    assert 30 <= len(fields) <= 40
    assert all(field.metadata["help"] for field in fields)
    assert {type(getattr(Config(), name)) is kind for name, kind in Config.types().items()} == {True}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"epochs": 0}', "epochs must be at least 1, and is 0"),
        ('{"epochs": "3"}', "epochs must be of type int, and is '3'"),
        ('{"flip": 1}', "flip must be of type bool, and is 1"),
        ('{"epoch": 3}', "unknown field 'epoch'; did you mean epochs?"),
        ('{"lr": -1}', "lr must be not negative, and is -1"),
        ('{"precision": "fp8"}', "precision must be one of fp32, bf16, fp16, and is 'fp8'"),
        ('{"val_split": 1}', "val_split must be between 0 and 0.9"),
        ('{"eval_crop": 0}', "eval_crop must be above 0 and at most 1"),
        ('{"erasing": 2}', "erasing must be between 0 and 1"),
        ("[]", "must be a JSON object"),
        ("{", "not JSON"),
    ],
)
def test_bad_settings(text, sentence):
    with pytest.raises(RunError, match=sentence.replace("?", r"\?")):
        Config.read(text)


def test_whole_numbers_are_numbers():
    assert Config.read(json.dumps({"lr": 1})).lr == 1.0


@pytest.mark.parametrize(("warmup", "floor"), [(0, 0), (2, 0), (1.5, 1e-3), (6, 0)])
def test_schedule_is_the_formula(warmup, floor):
    steps, epochs, peak = 10, 8, 0.3
    rate = build.schedule(Config(epochs=epochs, warmup=warmup, lr_min=floor), steps)
    total, warm = steps * epochs, round(min(warmup, epochs / 2) * steps)
    for t in range(total):
        if t < warm:
            expected = peak * (t + 1) / warm
        else:
            expected = floor + (peak - floor) / 2 * (1 + math.cos(math.pi * (t - warm) / (total - warm)))
        assert rate(t, peak) == pytest.approx(expected, rel=1e-12)


def test_schedule_is_torchs():
    """Without warm-up it is torch's cosine, computed by a recursion."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50, eta_min=0.01)
    rate = build.schedule(Config(epochs=5, lr_min=0.01), 10)
    for step in range(50):
        assert rate(step, 0.1) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        theirs.step()


def test_method_and_policy():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    made = build.method(Config(policy="CutMix(alpha=0.3)", method="SUMix(gamma=1.0)"), model, 4)
    assert type(made).__name__ == "SUMix" and made.gamma == 1.0 and repr(made.policy) == "CutMix(alpha=0.3)"
    assert build.policy(Config()) is None
    for values, sentence in [
        ({"policy": "CutMux"}, "policy: .*did you mean CutMix"),
        ({"policy": "SUMix"}, "policy must be a mixing policy"),
        ({"policy": "CutMix", "method": "CutMix"}, "method must be a training method"),
        ({"method": "SUMix"}, "method SUMix needs a policy: add --policy"),
        ({"policy": "CutMix(alpha=0)"}, "alpha"),
        ({"policy": "CutMix", "method": "SUMix(gamma=-1)"}, "gamma"),
        ({"policy": "CutMix", "method": "SUMix(gama=1)"}, "did you mean gamma"),
    ]:
        with pytest.raises(RunError, match=sentence):
            build.method(Config(**values), model, 4)


def test_optimizers():
    method = build.method(Config(), nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), 4)
    sgd = build.optimizer(Config(optimizer="sgd", lr=0.2, weight_decay=0.01), method)
    assert type(sgd) is torch.optim.SGD and [g["weight_decay"] for g in sgd.param_groups] == [0.01]
    assert sgd.defaults["nesterov"] is False and sgd.defaults["momentum"] == 0.9
    adamw = build.optimizer(Config(optimizer="adamw", weight_decay=0.05, decay_all=False), method)
    assert [(g["weight_decay"], [p.ndim for p in g["params"]]) for g in adamw.param_groups] == [(0.05, [2]), (0.0, [1])]

    class Fast(type(method)):
        def param_groups(self):
            return [
                {"params": [self.model[1].weight]},
                {"params": [self.model[1].bias], "lr": 0.7, "weight_decay": 0.3},
            ]

    groups = build.optimizer(Config(lr=0.2, weight_decay=0.01), Fast(method.model)).param_groups
    assert [(g["peak"], g["weight_decay"]) for g in groups] == [(0.2, 0.01), (0.7, 0.3)]


def test_optimizers_of_timm():
    pytest.importorskip("timm")
    method = build.method(Config(), nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), 4)
    assert type(build.optimizer(Config(optimizer="lamb"), method)).__name__ == "Lamb"
    with pytest.raises(RunError, match="optimizer 'sdg' is not available"):
        build.optimizer(Config(optimizer="sdg"), method)


def test_pretrained_weights(tmp_path):
    config = Config(model="mini_resnet")
    source = build.classifier(config, dataclasses.replace(DATA, classes=list("abcdefg")))
    (tmp_path / "w.safetensors").write_bytes(checkpoint.weights(source.state_dict()))
    torch.save({"state_dict": source.state_dict()}, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):  # seven classes there, four here: all but the classifier is taken over
        model = build.classifier(dataclasses.replace(config, weights=str(tmp_path / name)), DATA)
        own = model.state_dict()
        assert all(torch.equal(own[k], v) for k, v in source.state_dict().items() if not k.startswith("fc."))
        assert own["fc.weight"].shape == (4, 128)
    for path, sentence in [
        ("none.pth", "no weights at"),
        ("text.pth", "cannot read"),
        ("other.pth", "do not fit mini_resnet"),
    ]:
        (tmp_path / "text.pth").write_text("hello")
        torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
        with pytest.raises(RunError, match=sentence):
            build.classifier(dataclasses.replace(config, weights=str(tmp_path / path)), DATA)


def test_moving_average_against_a_loop():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    moving = average.Average(model, 0.9)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(5):
        model(torch.randn(4, 3))
        with torch.no_grad():
            model[0].weight.add_(torch.randn(2, 3))
        moving.update(model, step)
        decay = min(0.9, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            whole = value.dtype == torch.int64
            expected[name] = value.clone() if whole else decay * expected[name] + (1 - decay) * value
    for name, value in moving.module.state_dict().items():
        torch.testing.assert_close(value, expected[name])
