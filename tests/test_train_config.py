"""Settings: round trips, ranges, what is built from them, and the learning-rate schedule against its formula."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

pytest.importorskip("accelerate")
from torch import nn

from mixwell import EMA, Normalization
from mixwell.train import build, checkpoint, conflicts
from mixwell.train.config import LIMITS, Config
from mixwell.train.data import DataSet, Split
from mixwell.train.errors import RunError
from mixwell.train.recipes import RECIPES

SPLIT = Split(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4))
DATA = DataSet(SPLIT, SPLIT, SPLIT, list("abcd"), 3, Normalization(0.5, 0.5))


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


def test_every_field_is_explained_and_about_forty():
    fields = dataclasses.fields(Config)
    assert 30 <= len(fields) <= 45
    assert all(field.metadata["help"] for field in fields)
    assert {type(getattr(Config(), name)) is kind for name, kind in Config.types().items()} == {True}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"epochs": 0}', "epochs must be at least 1, but is 0"),
        ('{"epochs": "3"}', "epochs must be of type int, but is '3'"),
        ('{"flip": 1}', "flip must be of type bool, but is 1"),
        ('{"epoch": 3}', "unknown field 'epoch'; did you mean epochs?"),
        ('{"lr": -1}', "lr must be at least 0, but is -1"),
        ('{"precision": "fp8"}', "precision must be one of fp32, bf16, fp16, but is 'fp8'"),
        ('{"val_split": 1}', "val_split must be at most 0.9"),
        ('{"eval_crop": 0}', "eval_crop must be above 0 and at most 1"),
        ('{"eval_crop": 1e-9}', "eval_crop must be at least 0.01, but is 1e-09"),
        ('{"erasing": 2}', "erasing must be at most 1"),
        ('{"lr": 0.01, "lr_min": 0.02}', "lr_min must be at most lr 0.01, but is 0.02"),
        ("[]", "must be a JSON object"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_bad_settings(text, sentence):
    with pytest.raises(RunError, match=sentence.replace("?", r"\?")):
        Config.read(text)


NUMBERS = [name for name, kind in Config.types().items() if kind in (int, float)]


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_that_torch_cannot_use(name):
    """NaN, Inf and integers beyond 64 bits are refused in every field, and so is what is negative."""
    kind = Config.types()[name]
    low = LIMITS.get(name, (0, 0))[0] - 1
    for value in [2**70, 10**400, low] if kind is int else [math.nan, math.inf, -math.inf, float(low), 1e30]:
        with pytest.raises(RunError, match=f"{name} must be "):
            Config(**{name: value})
    with pytest.raises(RunError):
        Config.read(f'{{"{name}": 1{"0" * 400}}}')


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
        ("other.pth", "do not fit the model"),
    ]:
        (tmp_path / "text.pth").write_text("hello")
        torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
        with pytest.raises(RunError, match=sentence):
            build.classifier(dataclasses.replace(config, weights=str(tmp_path / path)), DATA)


def test_moving_average_against_a_loop():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    moving = EMA(model, 0.9)
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


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, []),
        ({"epochs": 4, "warmup": 5.0}, ["warmup 5 is longer than the run of 4 epochs: it ends after 2"]),
        ({"val_every": 3}, ["val_every 3 has no effect: the last ten epochs"]),
        ({"epochs": 20, "val_every": 3}, []),
        ({"save_every": 11}, ["save_every 11 has no effect: it exceeds epochs"]),
        ({"ema": 0.999}, ["ema 0.999 averages over more steps than the 50"]),
        ({"ema": 0.9}, []),
        ({"eval_crop": 0.5}, ["eval_crop 0.5 has no effect: only image files"]),
        ({"scale": 0.5}, ["scale 0.5 has no effect: images in memory"]),
        ({"workers": 2}, ["workers 2 has no effect"]),
        ({"workers": 2, "augment": "rand-m9"}, []),
        ({"momentum": 0.5, "optimizer": "adamw"}, ["momentum 0.5 has no effect: adamw"]),
        ({"decay_all": False, "weight_decay": 0.0}, ["decay_all False has no effect: weight_decay is 0"]),
        ({"data": "x"}, ["data x has no effect"]),
        ({"data": "x", "dataset": "folder", "crop": 4}, ["crop 4 has no effect"]),
        ({"lr": 0.0}, ["lr 0 trains nothing"]),
    ],
    ids=str,
)
def test_settings_without_effect(settings, words):
    """Each is named once."""
    config = Config(**settings)
    found = list(conflicts.ignored(config, steps=5, resized=config.dataset == "folder"))
    assert len(found) == len(words) and all(map(str.startswith, found, words)), found


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_recipes_have_no_setting_without_effect(recipe):
    config = recipe()
    resized = config.dataset not in conflicts.IN_MEMORY or (config.dataset != "digits" and config.image_size != 32)
    assert list(conflicts.ignored(config, 500, resized)) == []


@pytest.mark.parametrize(
    ("policy", "batch", "refused"), [("none", 4, False), ("MixUp()", 4, True), ("MixUp()", 8, False)]
)
def test_pieces_of_a_batch(policy, batch, refused):
    """Four forward passes per step: one image in each cannot be mixed, two warn, four do not."""
    config = Config(policy=policy, batch_size=batch, accumulate=2)
    method = build.method(config, nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), 4)
    if refused:
        with pytest.raises(RunError, match=r"batch_size 4 in 4 pieces .* leaves 1 image per forward pass"):
            conflicts.check_pieces(config, method, 2)
    else:
        few = conflicts.check_pieces(config, method, 2)
        assert few is None if policy == "none" else few and "leaves 2 images per forward pass" in few
    assert conflicts.check_pieces(dataclasses.replace(config, batch_size=16), method, 2) is None


def test_loss_is_passed_to_the_method():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    plain, smooth = (build.method(Config(loss=text), model, 4) for text in ("", "CrossEntropy(smoothing=0.5)"))
    batch = torch.randn(4, 3, 8, 8), torch.arange(4)
    expected = nn.functional.cross_entropy(model(batch[0]), batch[1], label_smoothing=0.5)
    torch.testing.assert_close(smooth(*batch)["loss"], expected)
    assert plain(*batch)["loss"] != expected
    for text, sentence in [("CutMix", "loss must be one of"), ("CrossEntropi", "did you mean CrossEntropy")]:
        with pytest.raises(RunError, match=sentence):
            build.check_expressions(Config(loss=text))


def test_a_model_of_timm_is_suggested():
    pytest.importorskip("timm")
    with pytest.raises(RunError, match=r"no model called 'resnet50'; did you mean timm/resnet50\?"):
        build.check_expressions(Config(model="resnet50"))
    with pytest.raises(RunError, match=r"did you mean resnet18\?"):
        build.check_expressions(Config(model="resnet81"))
