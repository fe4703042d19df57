"""``mixwell sweep``: train every combination of settings and seeds that a YAML file asks for, and compare them."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_type_hints

from mixwell.report import table
from mixwell.report.page import write
from mixwell.train import build
from mixwell.train.asha import ASHA, Halving
from mixwell.train.config import Config
from mixwell.train.errors import Parser, RunError, closest
from mixwell.train.files import text
from mixwell.train.paths import absolute, expand, file_name
from mixwell.train.recipes import RECIPES
from mixwell.train.runs import groups, read
from mixwell.train.trials import Resources, Trial, train_all

Settings = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The content of a sweep file.

    Attributes:
        recipes: Names of recipes.
        seeds: Random seeds; every combination is trained with each of them.
        settings: Settings of all runs.
        grid: Values of settings; all combinations of them are trained.
        rows: Settings by name; all of them are trained, each with every combination of ``grid``.
        cpus, gpus, retries: See :class:`mixwell.train.trials.Resources`.
        asha: Early stopping; None trains all runs to their end.
    """

    recipes: list[str]
    seeds: list[int] = field(default_factory=lambda: [0])
    settings: Settings = field(default_factory=dict[str, Any])
    grid: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])
    rows: dict[str, Settings] = field(default_factory=dict[str, Settings])
    cpus: float = 1
    gpus: float = 0
    retries: int = 3
    asha: ASHA | None = None

    def trials(self, out: Path) -> list[Trial]:
        """Return the runs, seed by seed, so that an unfinished sweep has complete comparisons."""
        found: dict[Path, Trial] = {}
        for seed, recipe, (row, settings) in itertools.product(self.seeds, self.recipes, self.combinations()):
            base, changes = RECIPES[recipe](), {**self.settings, **settings, "seed": seed}
            changes = {name: Config.checked(name, value) for name, value in changes.items()}
            changes |= {name: absolute(changes[name]) for name in ("data", "weights") if name in changes}
            config = replace(base, **changes)
            parts = ([recipe] if len(self.recipes) > 1 or not row else []) + ([row] if row else [])
            name = ", ".join([*parts, f"seed {seed}"])
            folder = out / "runs" / file_name("-".join([*parts, f"seed{seed}"]))
            if found.setdefault(folder, Trial(name, config, folder)).config != config:
                raise RunError(f"two runs of the sweep would write into {folder}: give them other names under rows")
        return [*found.values()]

    def combinations(self) -> Iterator[tuple[str, Settings]]:
        """Yield the name and the settings of every combination of a row and values of the grid."""
        for row, settings in (self.rows or {"": {}}).items():
            for values in itertools.product(*self.grid.values()):
                chosen = dict(zip(self.grid, values, strict=True))
                words = [str(v) if n in ("policy", "method") else f"{n}={v}" for n, v in chosen.items()]
                yield ", ".join(filter(None, [row, *words])), {**settings, **chosen}


def parse(path: Path) -> Sweep:
    """Read a sweep file.

    Raises:
        RunError: It is not YAML, a key or setting is unknown, or a value has the wrong type; the message names it.
    """
    try:
        import yaml
    except ModuleNotFoundError:
        raise RunError("sweep files need PyYAML: pip install 'mixwell[train,sweep]'") from None
    try:
        values = yaml.safe_load(text(path))
    except yaml.YAMLError as error:
        raise RunError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    try:
        return _sweep(values)
    except RunError as error:
        raise RunError(f"{path}: {error}") from None


def _sweep(values: Any) -> Sweep:
    kinds = get_type_hints(Sweep)
    if not isinstance(values, dict):
        raise RunError("expected settings such as 'recipes: [digits]'")
    if "recipe" in values:
        values = {"recipes": values["recipe"], **{name: value for name, value in values.items() if name != "recipe"}}
    for name, value in values.items():
        if name not in kinds:
            raise RunError(f"unknown key {name!r}{closest(str(name), kinds)}; expected {', '.join(kinds)}")
        values[name] = _typed(name, value, kinds[name])
    if not values.get("recipes"):
        raise RunError("name at least one recipe, such as 'recipes: [digits]'")
    for recipe in values["recipes"]:
        if recipe not in RECIPES:
            raise RunError(f"unknown recipe {recipe!r}{closest(str(recipe), RECIPES)} ('mixwell recipes' shows all)")
    return Sweep(**values)


def _typed(name: str, value: Any, kind: Any) -> Any:
    """Return a value of a sweep file; a single value stands for a list of one."""
    if name in ("recipes", "seeds"):
        value = value if isinstance(value, list) else [value]
        if not value or any(type(each) is not (str if name == "recipes" else int) for each in value):
            raise RunError(f"{name} must be a list of {'names' if name == 'recipes' else 'whole numbers'}")
        return list(dict.fromkeys(value))
    if name == "asha":
        return ASHA.read(value)
    if kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or kind(value) != value:
            raise RunError(f"{name} must be a number of at least 0, but is {value!r}")
        return value
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise RunError(f"{name} must be a mapping of settings to values, but is {value!r}")
    if name == "grid":
        return {key: each if isinstance(each, list) else [each] for key, each in value.items()}
    if name == "rows" and not all(isinstance(each, Mapping) for each in value.values()):
        raise RunError(
            "each entry of rows must be a mapping of settings to values, such as 'cutmix: {policy: CutMix()}'"
        )
    return dict(value)


def main(argv: Sequence[str]) -> None:
    """Train the runs of a sweep that are not finished, print their table, and write the report.

    Raises:
        RunError: The file cannot be used, a run directory holds other settings, or runs have failed.
    """
    parser = Parser("mixwell sweep", description="Train every combination of settings and seeds in a YAML file.")
    parser.add_argument("file", type=expand, metavar="SWEEP.yaml", help="what to train: see docs/sweeps.md")
    parser.add_argument("--out", type=expand, metavar="FOLDER", help="folder for runs, table and report [runs/SWEEP]")
    parser.add_argument("--address", metavar="HOST:PORT", help="a running Ray cluster, or auto [start Ray here]")
    parser.add_argument("--dry_run", action="store_true", help="print the commands of the runs and stop")
    args = parser.parse_args(argv)
    sweep, out = parse(args.file), args.out or Path("runs", args.file.stem)
    trials = sweep.trials(out)
    if args.dry_run:
        print("\n".join(trial.command for trial in trials))
        return
    train_and_report(
        trials,
        out,
        Resources(sweep.cpus, sweep.gpus, sweep.retries, args.address),
        shlex.join(["mixwell", "sweep", *argv]),
        "choose another --out",
        sweep.asha,
    )


def train_and_report(
    trials: Sequence[Trial], out: Path, resources: Resources, again: str, advice: str, asha: ASHA | None = None
) -> None:
    """Train what is not finished; write and print the table of all runs.

    Args:
        trials: The runs.
        out: Folder of table and report.
        resources: What each run receives.
        again: The command, which continues after an interruption.
        advice: What to do if a run directory holds a run with other settings.
        asha: Early stopping.

    Raises:
        RunError: A run directory holds other settings, or runs have failed.
        KeyboardInterrupt: Stopped; the message says how to continue.
    """
    for trial in trials:
        trial.check(advice)
        build.check_expressions(trial.config)
    if done := sum(trial.done for trial in trials):
        print(f"{done} of {len(trials)} runs in {out} are done")
    try:
        failed = train_all(trials, resources, Halving(asha, trials) if asha else None)
    except KeyboardInterrupt as error:
        raise type(error)(f"stopped; continue with: {again}") from None
    if runs := [read(trial.run) for trial in trials if trial.done or (asha and trial.stopped)]:
        files = write(out, runs, again)
        table.show(groups(runs))
        print(", ".join(map(str, files)))
    if failed:
        lines = [f"{len(failed)} of {len(trials)} runs failed (to try again: {again})"]
        raise RunError("\n".join([*lines, *(f"  {name}: {error}" for name, error in failed.items())]))
