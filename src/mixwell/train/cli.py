"""The command ``mixwell``."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import re
import shlex
import shutil
import signal
import sys
import textwrap
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import mixwell
from mixwell import models
from mixwell.parse import known, nearest
from mixwell.train import checkpoint
from mixwell.train.config import BAD_IMAGES, Config
from mixwell.train.errors import Parser, RunError, full_disk
from mixwell.train.paths import expand
from mixwell.train.recipes import FAMILIES, RECIPES

ELSEWHERE = {  # commands whose arguments are read by the ``main(argv)`` of a module of their own
    "show": "picture of what a policy does to images",
    "report": "one HTML page about several runs",
    "check": "read every image of a data set once, before training",
    "demo": "plain, CutMix and CutMix + SUMix on real digits, with table, pictures and report",
}
KINDS = {
    "policies": "policy",
    "shorthands for policies": "shorthand",
    "methods": "method",
    "saliency sources": "saliency",
    "pairings": "pairing",
    "ratios": "ratio",
    "label policies": "label",
}
ABOUT = """\
mixwell trains image classifiers by mixing samples and labels.

  mixwell list                                                       what there is
  mixwell train digits --policy "CutMix(alpha=1)" --method SUMix     a run of seconds
  mixwell train cifar100_resnet18 --data DIR --out runs/a            the papers' recipe
  mixwell train --resume runs/a                                      continue an interrupted run
  mixwell eval runs/a                                                top-1, top-5, NLL, ECE
  torchrun --nproc-per-node 8 -m mixwell.train.cli train RECIPE      several GPUs

'mixwell COMMAND --help' says more."""


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, and got {text!r}")
    return text.lower() == "true"


def _add_fields(parser: argparse.ArgumentParser, base: Config) -> None:
    """Add an option for every field of a config; an option that is not given leaves no trace."""
    group = parser.add_argument_group(f"settings (in brackets: the value in recipe {base.recipe})")
    for field in fields(Config):
        if field.name == "recipe":
            continue
        kind, value = Config.types()[field.name], getattr(base, field.name)
        shown = f"{field.metadata['help']} [{value if value != '' else 'none'}]".replace("%", "%%")
        name = field.name.upper()
        if kind is bool:
            group.add_argument(f"--{field.name}", type=_truth, nargs="?", const=True, metavar="true", help=shown)
        else:
            group.add_argument(f"--{field.name}", type=kind, metavar=name.split("_")[-1], help=shown)


def _parser(argv: Sequence[str]) -> Parser:
    parser = Parser("mixwell", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"mixwell {mixwell.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    chosen = next((RECIPES[word] for word in argv if word in RECIPES), Config)
    train = commands.add_parser(
        "train",
        help="train a recipe, or continue a run",
        usage="mixwell train RECIPE [--out RUN] [--SETTING VALUE ...]\n       mixwell train --resume RUN",
        description=f"Train a recipe, with any setting replaced, or continue a run.\n\n{_recipes()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    train.add_argument("recipe", nargs="?", metavar="RECIPE", help="one of the recipes above")
    train.add_argument("--out", metavar="RUN", help="new directory for the run [runs/RECIPE-POLICY-METHOD-seedN]")
    train.add_argument("--resume", metavar="RUN", help="continue the run in this directory with its own settings")
    _add_fields(train, chosen())
    evaluate = commands.add_parser("eval", help="measure a trained run", description="Measure the classifier of a run.")
    evaluate.add_argument("run", type=expand, metavar="RUN", help="run directory")
    evaluate.add_argument("--split", choices=("test", "val"), default="test", help="which images [test]")
    evaluate.add_argument("--bins", type=int, default=10, help="intervals of the calibration error [10]")
    evaluate.add_argument("--json", action="store_true", help="print one line of JSON")
    for name in ("data", "device"):
        evaluate.add_argument(f"--{name}", help=f"another {name} than the run's")
    evaluate.add_argument("--bad_images", choices=BAD_IMAGES, help="what to do about images that cannot be read")
    commands.add_parser("list", help="what recipes, policies, methods and models there are")
    for name, text in ELSEWHERE.items():
        commands.add_parser(name, help=text)
    return parser


def _recipes() -> str:
    """Return the names of all recipes, family by family, as wide as the terminal."""
    lines, width, margin = ["recipes ('mixwell list' describes them):"], shutil.get_terminal_size().columns - 2, " " * 4
    for family, recipes in FAMILIES.items():
        names = " ".join(recipe.__name__ for recipe in recipes)
        lines += [f"  {family}", *textwrap.wrap(names, width, initial_indent=margin, subsequent_indent=margin)]
    return "\n".join(lines)


def _first_line(thing: object) -> str:
    return re.sub(r":\w+:`([^`]*)`|``([^`]*)``", r"\1\2", (thing.__doc__ or "").strip().splitlines()[0])


def _train(given: dict[str, Any], command: str) -> None:
    recipe, out, resumed = (given.pop(name, None) for name in ("recipe", "out", "resume"))
    given |= {name: _absolute(given[name]) for name in ("data", "weights") if name in given}
    if recipe is not None and recipe not in RECIPES:
        raise RunError(f"unknown recipe {recipe!r}{nearest(recipe, RECIPES)}")
    if resumed:
        config, run = _resumed(expand(resumed), recipe, given), expand(resumed)
        if out:
            raise RunError("--resume continues a run in its own directory: leave out --out")
    elif recipe:
        config = replace(RECIPES[recipe](), **given)
        run = expand(out or Path("runs", _run_name(config)))
        if (run / "config.json").exists() and _first_process():
            raise RunError(f"{run} already holds a run: continue it with --resume {run}, or choose another --out")
    else:
        raise RunError("name a recipe ('mixwell list' shows all), or a run to --resume")
    from mixwell.train.loop import Training

    training = Training(config, run, command)  # says what is wrong before anything is written
    if training.main:
        try:
            run.mkdir(parents=True, exist_ok=True)
            checkpoint.write(run / "config.json", config.json().encode())
        except OSError as error:
            raise RunError(f"cannot start a run in {run}: {error.strerror}") from None
    with _interruptible(run):
        summary = training()
    if training.main:
        print(_told(run, summary))


def _absolute(path: str) -> str:
    """Return an absolute path, for a run that may be resumed from another folder; timm/TAG is not a path."""
    return path if not path or path.startswith("timm/") else str(expand(path).absolute())


def _told(run: Path, summary: dict[str, Any]) -> str:
    top1, where = summary["val_top1"], summary["validated_on"]
    mask = f"\nwhat its block has learned, as a policy: {summary['mask']}" if "mask" in summary else ""
    median = f"median of the last ten epochs {top1['median_last_10']:.2f}"
    return f"{run}: top-1 {top1['last']:.2f} % ({median}) on {where}{mask}"


def _first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _run_name(config: Config) -> str:
    parts = (config.recipe, _shortened(config.policy), _shortened(config.method), f"seed{config.seed}")
    return re.sub(r"[^\w.=-]+", "_", "-".join(parts)).strip("_").replace("_-", "-")


def _shortened(text: str) -> str:
    """Return an expression as part of a file name, which have a limit; others of that name differ in their digest."""
    return text if len(text) <= 40 else f"{text.partition('(')[0]}-{zlib.crc32(text.encode()):08x}"


def _resumed(run: Path, recipe: str | None, given: dict[str, Any]) -> Config:
    """Return the config of a run, with what may change from one machine to another replaced."""
    config = _read_config(run)
    if recipe not in (None, config.recipe):
        raise RunError(f"{run} holds a run of recipe {config.recipe!r}, not of {recipe!r}: leave the recipe out")
    changed = replace(config, **given)
    fixed = [text for text in config.differences(changed) if text.split()[0] not in Config.MAY_CHANGE]
    if fixed:
        raise RunError(f"a resumed run keeps its settings, and in {run} {fixed[0]}: start a new run with --out")
    return changed


def _read_config(run: Path) -> Config:
    try:
        return Config.read((run / "config.json").read_text())
    except (OSError, UnicodeDecodeError) as error:
        kind = " in UTF-8" if isinstance(error, UnicodeDecodeError) else ""
        raise RunError(f"no run in {run}: expected {run / 'config.json'}{kind}") from None


@contextlib.contextmanager
def _interruptible(run: Path) -> Iterator[None]:
    """Turn Ctrl-C, a polite kill and a full disk into a sentence that says how to go on."""

    def kept() -> str:
        folder = checkpoint.latest(run)
        safe = f"epoch {checkpoint.epochs(folder)} is kept" if folder else "no epoch is done yet"
        return f"{safe}; go on with: mixwell train --resume {shlex.quote(str(run))}"

    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped: {kept()}") from None
    except OSError as error:
        if not full_disk(error):
            raise
        raise RunError(f"no space left to write {error.filename or run}: free some; {kept()}") from None


def _eval(args: argparse.Namespace) -> None:
    from mixwell.train.evaluate import evaluate_run

    config = _read_config(args.run)
    changes = {name: getattr(args, name) for name in ("data", "device", "bad_images") if getattr(args, name)}
    measures = evaluate_run(replace(config, **changes), args.run, args.split, args.bins)
    if not _first_process():
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


def _list() -> None:
    print("recipes")
    for family, recipes in FAMILIES.items():
        print(f"  {family}")
        for recipe in recipes:
            print(f"    {recipe.__name__:<35}{_first_line(recipe)}")
    for title, kind in KINDS.items():
        print(title)
        for name in mixwell.names(kind):
            print(f"  {name:<20}{_first_line(known()[name])}")
    print(f"models\n  {', '.join(models.NAMES)}, and timm/NAME for every model of timm")


def _underscored(word: str) -> str:
    """Spell ``--batch-size=8`` as the setting is spelt, ``--batch_size=8``."""
    name, equals, value = word.partition("=")
    return re.sub(r"(?<=\w)-", "_", name) + equals + value if word.startswith("--") else word


def _complaint(command: str, word: str) -> str:
    name = word.removeprefix("--").partition("=")[0]
    if command == "train" and word.startswith("--"):
        return f"unknown setting --{name}{nearest(name, [*Config.types(), 'out', 'resume'])} (see mixwell train --help)"
    return f"{word!r} is one argument too many (see mixwell {command} --help)"


def _run(argv: list[str]) -> None:
    if argv and argv[0] in ELSEWHERE:
        module = {"show": "report.show", "report": "report.page", "demo": "train.demo"}[argv[0]]
        importlib.import_module(f"mixwell.{module}").main(argv[1:])
        return
    argv = [_underscored(word) for word in argv]
    args, unknown = _parser(argv).parse_known_args(argv)
    if unknown:
        raise RunError(_complaint(args.command, unknown[0]))
    if args.command == "train":
        _train({name: value for name, value in vars(args).items() if name != "command"}, shlex.join(["mixwell", *argv]))
    elif args.command == "eval":
        _eval(args)
    else:
        _list()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 after a mistake that is told in one line, or 130 after Ctrl-C."""
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill stops a run as Ctrl-C does
    try:
        _run(list(sys.argv[1:] if argv is None else argv))
    except RunError as error:
        print(f"mixwell: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"\nmixwell: {str(error) or 'stopped'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has seen enough; nothing may be flushed to it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
