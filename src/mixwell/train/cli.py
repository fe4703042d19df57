"""The commands of ``mixwell``: ``train``, ``eval`` and ``list`` here, the others in modules of their own."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import math
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import mixwell
import mixwell_cli
from mixwell import models
from mixwell.parse import known
from mixwell.train import run, stop
from mixwell.train.accelerator import is_first
from mixwell.train.config import BAD_IMAGES, Config
from mixwell.train.errors import Parser, RunError, closest, enough_memory, whole
from mixwell.train.output import SafeStream, safe_output
from mixwell.train.paths import absolute, expand, file_name
from mixwell.train.recipes import BASES, RECIPES, TRAININGS
from mixwell.train.recipes.small import SMALL
from mixwell.train.runs import read_config
from mixwell.train.summary import Summary

ELSEWHERE = {  # commands with a function ``main(argv)`` in a module of their own
    "show": "mixwell.report.show",
    "report": "mixwell.report.page",
    "play": "mixwell.report.play",
    "check": "mixwell.train.check",
    "labels": "mixwell.train.label_errors",
    "recipes": "mixwell.train.recipe_list",
    "sweep": "mixwell.train.sweep",
    "demo": "mixwell.train.demo",
}
COMMANDS = ("train", "eval", "list", *ELSEWHERE)
OTHERS = {  # options that only --suite uses: the kind of their value, and their help
    "ood": ("DIR", "folder of out-of-distribution images"),
    "corrupted": ("DIR", "folder of a published -C data set"),
    "baseline": ("RUN", "run that the mCE is relative to"),
    "transfer": ("DIR", "other data set for the transfer of features"),
    "boxes": ("CSV", "boxes of objects, as for mixwell labels"),
}
ADVICE = {  # what to change where memory is short
    "show": "lower --size or --count, or name fewer --ratios",
    "labels": "lower --image_size or --count",
    "play": "lower --image_size",
    "eval": "use a machine or a --device with more memory",
}
KINDS = {
    "policies": "policy",
    "shorthands for policies": "shorthand",
    "methods": "method",
    "losses": "loss",
    "saliency sources": "saliency",
    "pairings": "pairing",
    "ratios": "ratio",
    "label policies": "label",
}


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, but got {text!r}")
    return text.lower() == "true"


def _minutes(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a positive number of minutes, but got {text!r}")


def _add_fields(parser: argparse.ArgumentParser, base: Config) -> None:
    """Add an option for every field of a config; an option that is not given is not in the result."""
    group = parser.add_argument_group(f"settings (in brackets: the value in recipe {base.recipe})")
    for field in fields(Config):
        if field.name == "recipe":
            continue
        kind, value = Config.types()[field.name], getattr(base, field.name)
        text = f"{field.metadata['help']} [{value if value != '' else 'none'}]".replace("%", "%%")
        name = field.name.upper()
        if kind is bool:
            group.add_argument(f"--{field.name}", type=_boolean, nargs="?", const=True, metavar="true", help=text)
        else:
            group.add_argument(f"--{field.name}", type=kind, metavar=name.split("_")[-1], help=text)


def _parser(argv: Sequence[str]) -> Parser:
    parser = Parser("mixwell", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    chosen = next((RECIPES[word] for word in argv if word in RECIPES), Config)
    train = commands.add_parser(
        "train",
        usage="mixwell train RECIPE [--out RUN] [--SETTING VALUE ...]\n       mixwell train --resume RUN",
        description=f"Train a recipe, with any setting replaced, or resume a run.\n\n{_recipes()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    train.add_argument("recipe", nargs="?", metavar="RECIPE", help="one of the recipes above")
    train.add_argument(
        "--out", type=expand, metavar="RUN", help="run directory, to be created [runs/RECIPE-POLICY-METHOD-seedN]"
    )
    train.add_argument("--resume", type=expand, metavar="RUN", help="resume the run in this directory")
    text = "fewer epochs, so that the run ends in so many minutes"
    train.add_argument("--budget", type=_minutes, metavar="MINUTES", help=text)
    _add_fields(train, chosen())
    evaluate = commands.add_parser("eval", description="Evaluate the classifier of a run.", allow_abbrev=False)
    evaluate.add_argument("run", type=expand, metavar="RUN", help="run directory")
    evaluate.add_argument("--split", choices=("test", "val"), default="test", help="images to evaluate on [test]")
    evaluate.add_argument(
        "--bins", type=whole(1, 1000), default=10, help="bins of the calibration error (1 to 1000) [10]"
    )
    evaluate.add_argument("--json", action="store_true", help="print one line of JSON")
    evaluate.add_argument("--data", type=absolute, help="folder of the data set, if it is not that of the run")
    evaluate.add_argument("--device", help="device, if it is not that of the run")
    evaluate.add_argument("--bad_images", choices=BAD_IMAGES, help="stop at images that cannot be read, or skip them")
    evaluate.add_argument(
        "--suite", metavar="PARTS", help="full, or parts such as accuracy,calibration: see docs/evaluate.md"
    )
    for name, (metavar, text) in OTHERS.items():
        evaluate.add_argument(f"--{name}", type=expand, metavar=metavar, help=f"{text} (with --suite)")
    listing = commands.add_parser("list", description="List recipes, policies, methods and models.", allow_abbrev=False)
    listing.add_argument("--recipes", action="store_true", help="only the names of recipes")
    return parser


def _recipes() -> str:
    """Return the parts that names of recipes have, wrapped to the width of the terminal."""
    width, lines = shutil.get_terminal_size().columns - 2, ["recipes"]
    lines += [f"  {recipe.__name__:<22}{_first_line(recipe)}" for recipe in SMALL]
    for title, names in (("DATA_NETWORK", BASES), ("TRAINING", TRAININGS)):
        lines += [f"  {title}", *textwrap.wrap(" ".join(names), width, initial_indent="    ", subsequent_indent="    ")]
    example = "  DATA_NETWORK_TRAINING, such as cifar100_resnet18_cutmix_sumix: 'mixwell recipes' lists all"
    return "\n".join([*lines, example])


def _train(given: dict[str, Any], command: str) -> None:
    recipe, out, resumed, budget = (given.pop(name, None) for name in ("recipe", "out", "resume", "budget"))
    given |= {name: absolute(given[name]) for name in ("data", "weights") if name in given}
    if recipe is not None and recipe not in RECIPES:
        raise RunError(f"unknown recipe {recipe!r}{closest(recipe, RECIPES)} ('mixwell recipes' shows all)")
    if resumed:
        if out:
            raise RunError("--resume continues a run in its own directory: remove --out")
        if budget:
            raise RunError("a resumed run keeps its epochs: remove --budget")
        config, out = read_config(resumed), resumed
        if recipe not in (None, config.recipe):
            raise RunError(f"{out} holds a run of recipe {config.recipe!r}, not of {recipe!r}: remove the recipe")
        config = replace(config, **given)
    elif recipe:
        config = replace(RECIPES[recipe](), **given)
        out = out or Path("runs", _run_name(config))
    else:
        raise RunError("name a recipe ('mixwell recipes' shows all), or a run to --resume")
    summary = run(config, out, resume=bool(resumed), command=command, budget=budget or 0.0)
    if is_first():
        print(_result(out, summary))


def _result(run: Path, summary: Summary) -> str:
    mask = f"\nlearned mask, as a policy: {summary.mask}" if summary.mask else ""
    measure, found = ("mAP", summary.val_map) if summary.val_map else ("top-1", summary.val_top1 or {})
    median = f"median of the last ten epochs {found['median_last_10']:.2f}"
    return f"{run}: {measure} {found['last']:.2f} % ({median}) on {summary.validated_on}{mask}"


def _run_name(config: Config) -> str:
    name = file_name(f"{config.recipe}-{config.policy}-{config.method}")
    return f"{name}-seed{config.seed}".replace("_-", "-")


def _suite(args: argparse.Namespace, config: Config, command: str) -> None:
    from mixwell.train.suite import evaluate_suite, table

    others = {name: getattr(args, name) for name in OTHERS}
    record = evaluate_suite(config, args.run, args.suite, args.split, command, **others)
    print(json.dumps(record) if args.json else f"{table(record)}\nwritten: {args.run / 'eval.json'}")


def _eval(args: argparse.Namespace, command: str) -> None:
    from mixwell.train.evaluate import evaluate_run

    changes = {name: getattr(args, name) for name in ("data", "device", "bad_images") if getattr(args, name)}
    if args.suite:
        _suite(args, replace(read_config(args.run), **changes), command)
        return
    if given := [name for name in OTHERS if getattr(args, name)]:
        raise RunError(f"--{given[0]} is used with --suite: add --suite full, or the parts you want")
    measures = evaluate_run(replace(read_config(args.run), **changes), args.run, args.split, args.bins)
    if not is_first():
        return
    if args.json:
        print(json.dumps(measures))
    else:
        print(f"{args.run} on {measures['images']} {args.split} images")
        if "map" in measures:
            print(f"  mAP    {measures['map']:6.2f} %\n  BCE    {measures['loss']:6.4f}")
            return
        print(f"  top-1  {measures['top1']:6.2f} %\n  top-5  {measures['top5']:6.2f} %")
        print(f"  NLL    {measures['loss']:6.4f}\n  ECE    {measures['ece']:6.4f} ({args.bins} bins)")


def _list(only_recipes: bool) -> None:
    print(_recipes())
    if only_recipes:
        return
    for title, kind in KINDS.items():
        print(title)
        for name in mixwell.names(kind):
            print(f"  {name:<20}{_first_line(known()[name])}")
    print(f"models\n  {', '.join(models.NAMES)}, and timm/NAME for every model of timm")


def _first_line(thing: object) -> str:
    return re.sub(r":\w+:`([^`]*)`|``([^`]*)``", r"\1\2", (thing.__doc__ or "").strip().splitlines()[0])


def _underscored(word: str) -> str:
    """Spell ``--batch-size=8`` as the setting is spelled, ``--batch_size=8``."""
    name, equals, value = word.partition("=")
    return re.sub(r"(?<=\w)-", "_", name) + equals + value if word.startswith("--") else word


def _unknown(command: str, word: str) -> str:
    name = word.removeprefix("--").partition("=")[0]
    if command == "train" and word.startswith("--"):
        suggested = closest(name, [*Config.types(), "out", "resume", "budget"]).replace("mean ", "mean --")
        return f"unknown setting --{name}{suggested} (see mixwell train --help)"
    return f"unexpected argument {word!r} (see mixwell {command} --help)"


def _run(argv: list[str]) -> None:
    if (text := mixwell_cli.answer(argv)) is not None:
        print(text)
        return
    if argv[0] in ELSEWHERE:
        importlib.import_module(ELSEWHERE[argv[0]]).main(argv[1:])
        return
    if argv[0] not in COMMANDS:
        raise RunError(f"unknown command {argv[0]!r}{closest(argv[0], COMMANDS)} (see mixwell --help)")
    argv = [_underscored(word) for word in argv]
    args, unknown = _parser(argv).parse_known_args(argv)
    if unknown:
        raise RunError(_unknown(args.command, unknown[0]))
    if args.command == "train":
        _train({name: value for name, value in vars(args).items() if name != "command"}, shlex.join(["mixwell", *argv]))
    elif args.command == "eval":
        _eval(args, shlex.join(["mixwell", *argv]))
    else:
        _list(args.recipes)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        Exit status: 0 if the command has finished, 2 after an error that is printed as one line, 130 after Ctrl-C,
        143 after SIGTERM, and 75 after SIGUSR1, which stops a run after the current epoch.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    stop.install()
    with safe_output() as out:
        try:
            with enough_memory(ADVICE.get(next(iter(argv), ""), "lower --batch_size or --image_size")):
                _run(argv)
            return _complete(argv, out)
        except RunError as error:
            print(f"mixwell: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt as error:
            print(f"\nmixwell: {str(error) or 'stopped'}", file=sys.stderr)
            return getattr(error, "status", 130)


def _complete(argv: Sequence[str], out: SafeStream) -> int:
    """Return 2 if output was lost that is not also in files, otherwise 0."""
    out.flush()
    if argv[:1] in (["train"], ["sweep"], ["demo"]) or not out.incomplete:
        return 0
    raise RunError(f"cannot write the output: {out.error and out.error.strerror}")


if __name__ == "__main__":
    sys.exit(mixwell_cli.main())
