"""The house rules, read off the sources: who imports whom, how long, how deep, how named, what may not be said."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import count
from pathlib import Path

import pytest

import mixwell

ROOT = Path(__file__).resolve().parents[1]
SOURCE = Path("src/mixwell")
# A smell detector and not a goal: an idea that is cut in two to fit is worse than a longer file.
FILE_LINES, FUNCTION_LINES, COMPLEXITY, README_LINES = 350, 60, 10, 150

# A part imports only from rows above its own; "" is the package itself, as in ``from mixwell import CutMix``.
# A module may have another row than its package: reports read runs and data sets, and training makes reports.
ORDER = [
    {"ops"},
    {"typecheck", "checks", "ema"},
    {"value"},
    {"schedule", "normalization"},
    {"batch"},
    {"plan"},
    {"ratio", "pairing", "features"},
    {"saliency"},
    {"policy"},
    {"policies"},
    {"targets"},
    {"losses", "metrics"},
    {"evaluation"},
    {"labels", "decoupled"},
    {"models", "step_guard", "mixtargets", "anyshape", "collation"},
    {"mixers"},
    {"methods"},
    {"integrations", "parse"},
    {""},
    {
        f"train.{name}"
        for name in (
            "errors",
            "files",
            "paths",
            "config",
            "summary",
            "checkpoint",
            "sharding",
            "recipes",
            "runs",
            "build",
            "network",
        )
    }
    | {
        f"train.{name}"
        for name in (
            "images",
            "image_files",
            "dataset",
            "stream",
            "tar_shards",
            "litdata_chunks",
            "huggingface",
            "cifar_pickle",
            "cifar",
            "image_folder",
            "listing",
            "layouts",
            "data",
        )
    },
    {"report"},
    {"train", "__main__"},
]
RANK = {part: rank for rank, row in enumerate(ORDER) for part in row}
MAY_IMPORT = {
    "models": {"timm", "torchvision"},
    "mixers": {"safetensors"},  # a learned mask is a file; imported when one is read or written
    "integrations": {"timm", "torchvision", "lightning", "transformers", "scipy", "numpy"},
    "report": {"fastapi", "gradio", "jinja2", "matplotlib", "numpy", "PIL", "rich", "scipy", "sklearn", "uvicorn"},
    "evaluation": {"pyautoattack", "scipy"},  # imported when an attack or a localization runs
    "__main__": {"mixwell_cli"},
    "": {"mixwell_cli"},  # python -m mixwell --help, answered before torch is imported
    "train": {
        "mixwell_cli",
        *("accelerate", "matplotlib", "numpy", "PIL", "ray", "rich", "safetensors", "scipy"),
        *("sklearn", "tensorboard", "timm", "torchvision", "yaml"),
        *("datasets", "litdata"),  # imported when such a data set is read
    },
}
EVERYWHERE = {*sys.stdlib_module_names, "torch", "mixwell"}
BANNED_NAMES = {"util", "utils", "common", "helper", "helpers", "misc"}
# The brackets keep these patterns from matching themselves.
BANNED_TEXT = {
    "a machine's path": r"(?<![\w.~$}/])/(?:[h]ome|[r]oot|[w]ork|[t]mp|[m]nt|[U]sers)/",
    "a package index": r"[p]ypi\.|[p]ythonhosted|[w]hl/c(?:pu|u)|npmj[s]\.|--(?:extra-)?inde[x]-url|--find-link[s]",
    "an address in a private network": r"\b(?:10|192\.168|172\.(?:1[6-9]|2\d|3[01]))(?:\.\d{1,3}){2,3}(?::\d+|/)",
}
WITHOUT_PAPER = {
    "Mixing",
    "NoMix",
    "OneOf",
    "Sometimes",
    "Switch",
}  # of the policies, methods and saliency sources

Check = Callable[[Path, str], Iterator[str]]


def part(names: Sequence[str]) -> str:
    """Return the part of the library that a module belongs to, from its name without ``mixwell``."""
    return next((known for known in (".".join(names[:2]), *names[:1]) if known in RANK), "")


def part_of(path: Path) -> str:
    """Return the part of the library that a file belongs to; the name of the file or folder if it is new."""
    names = path.relative_to(SOURCE).with_suffix("").parts
    return part(names) or ("" if names == ("__init__",) else names[0])


def at_run_time(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a tree, without what only a type checker reads."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from at_run_time(other)
        else:
            yield from at_run_time(child)


def imported(path: Path, source: str) -> Iterator[str]:
    """Yield the full name of everything that a file imports, however late it does so."""
    package = path.relative_to("src").parent.parts
    for node in at_run_time(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            yield from (".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant))


def one_way(path: Path, source: str) -> Iterator[str]:
    """Complain about imports from the same row or from below."""
    here = part_of(path)
    if here not in RANK:
        yield f"{here} has no place in ORDER"
        return
    for name in imported(path, source):
        package, *rest = name.split(".")
        there = part(rest)
        neighbours = there.split(".")[0] == here.split(".")[0] and RANK[there] == RANK[here]
        if package == "mixwell" and RANK[there] >= RANK[here] and not neighbours:
            yield f"{here} imports {name}, which is not above it in ORDER"


def third_party(path: Path, source: str) -> Iterator[str]:
    """Complain about packages that this part of the library may not need."""
    allowed = EVERYWHERE | MAY_IMPORT.get(part_of(path).split(".")[0], set())
    packages = {name.split(".")[0] for name in imported(path, source)}
    yield from (f"{part_of(path) or 'mixwell'} imports {name}" for name in sorted(packages - allowed))


def file_name(path: Path, source: str) -> Iterator[str]:
    """Complain about names that say nothing."""
    yield from (f"{part} says nothing" for part in path.with_suffix("").parts if part.strip("_") in BANNED_NAMES)


def file_length(path: Path, source: str) -> Iterator[str]:
    """Complain about long files."""
    lines = len(source.splitlines())
    if lines > FILE_LINES:
        yield f"{lines} lines, at most {FILE_LINES}"


def complexity(function: ast.AST) -> int:
    """Count the ways through a function, as McCabe does: one more for each branch, loop and inner function."""
    branches = ast.If | ast.For | ast.AsyncFor | ast.While | ast.ExceptHandler | ast.match_case
    inner = ast.FunctionDef | ast.AsyncFunctionDef  # the function itself is among them, and counts as one
    nodes = list(ast.walk(function))
    otherwise = sum(isinstance(node, ast.Try) and bool(node.orelse) for node in nodes)
    return otherwise + sum(isinstance(node, branches | inner) for node in nodes)


def functions(path: Path, source: str) -> Iterator[str]:
    """Complain about long and about branching functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield f"{node.name} has {lines} lines, at most {FUNCTION_LINES}"
            if complexity(node) > COMPLEXITY:
                yield f"{node.name} has complexity {complexity(node)}, at most {COMPLEXITY}"


def wording(path: Path, source: str) -> Iterator[str]:
    """Complain about text that ties the repository to one machine or network."""
    for number, line in zip(count(1), source.splitlines(), strict=False):
        yield from (f"line {number} names {what}" for what, pattern in BANNED_TEXT.items() if re.search(pattern, line))


def committed() -> Iterator[Path]:
    """Yield the files of the repository, without what .gitignore leaves out."""
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines() if line.endswith("/")}
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(set(folders) - ignored - {".git"})
        yield from (Path(folder, name).relative_to(ROOT) for name in sorted(names))


@cache
def texts() -> dict[Path, str]:
    """Read every text file of the repository."""
    found = {}
    for path in committed():
        try:
            found[path] = (ROOT / path).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):  # a picture; a file that another process has just removed
            continue
    return found


def refuse(check: Check, files: dict[Path, str]) -> None:
    """Fail with every complaint of a check on a line of its own."""
    complaints = [f"{path}: {complaint}" for path, text in files.items() for complaint in check(path, text)]
    assert not complaints, "\n".join(["", *complaints])


def test_import_is_quick() -> None:
    """Only torch comes along; the compiler alone would take longer than everything else."""
    slow = ("torch._dynamo", "torchvision", "timm", "scipy", "sklearn", "matplotlib", "accelerate")
    code = f"import sys, mixwell; print([name for name in {slow} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_readme_is_short() -> None:
    """A newcomer reads the README in a minute."""
    assert len(texts()[Path("README.md")].splitlines()) <= README_LINES


@pytest.mark.parametrize("check", [one_way, third_party], ids=lambda check: check.__name__)
def test_library(check: Check) -> None:
    """The sources of the library keep the order."""
    sources = {path: text for path, text in texts().items() if path.is_relative_to(SOURCE) and path.suffix == ".py"}
    assert len(sources) > 5
    refuse(check, sources)


@pytest.mark.parametrize("check", [file_name, file_length, functions], ids=lambda check: check.__name__)
def test_all_python(check: Check) -> None:
    """Tests, examples and benchmarks are as short and plain as the library."""
    sources = {path: text for path, text in texts().items() if path.suffix == ".py"}
    refuse(check, sources)


def test_wording() -> None:
    """No file names a machine's path or the place packages come from."""
    refuse(wording, texts())


@pytest.mark.parametrize("name", mixwell.__all__)
def test_public_names_are_documented(name: str) -> None:
    """Every public name says what it is, and what comes from a paper says from which."""
    value = getattr(mixwell, name)
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return
    doc = vars(value).get("__doc__") or "" if inspect.isclass(value) else value.__doc__ or ""
    generated = doc.startswith(f"{name}(")  # what a dataclass without a docstring gets
    assert len(doc) * (not generated) > 20, f"{name} needs a docstring of its own"
    if inspect.isclass(value):
        methods = [key for key, member in vars(value).items() if inspect.isfunction(member) and key[0] != "_"]
        silent = [key for key in methods if not inspect.getdoc(getattr(value, key))]
        assert silent == [], f"methods of {name} without a docstring, also in its bases"
        published = {name for kind in ("policy", "method", "saliency") for name in mixwell.names(kind)} - WITHOUT_PAPER
        if name in published:
            assert "Source:" in doc, f"{name} does not name its paper: end the docstring with a line 'Source: ...'"


LATE = "def f():\n    from .policies.cutmix import CutMix\n"
TYPES = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import timm\n    from .train import loop\n"
BRANCHES = "def f(x):\n" + "".join(f"    if x == {n}:\n        return {n}\n" for n in range(10))


@pytest.mark.parametrize(
    ("check", "path", "source", "complaints"),
    [
        (one_way, "plan.py", "from .value import Value\nfrom . import ops\n", 0),
        (one_way, "plan.py", LATE, 1),
        (one_way, "plan.py", "from . import policy\n", 1),
        (one_way, "plan.py", TYPES, 0),
        (one_way, "ratio.py", "from mixwell.pairing import Roll\n", 1),
        (one_way, "policies/cutmix.py", "from ..methods import sumix\n", 1),
        (one_way, "policies/cutmix.py", "from mixwell import CutMix\n", 1),
        (one_way, "policies/cutmix.py", "from .mixup import MixUp\n", 0),
        (one_way, "parse.py", "from importlib import import_module\nimport_module('mixwell.train.cli')\n", 1),
        (one_way, "report/table.py", "from mixwell.train.runs import Group\n", 0),
        (one_way, "report/table.py", "from mixwell.train import loop\n", 1),
        (one_way, "report/table.py", "from mixwell.train.loop import Training\n", 1),
        (one_way, "train/runs.py", "from mixwell.report import table\n", 1),
        (one_way, "train/loop.py", "from mixwell.report import masks\nfrom mixwell.train import data\n", 0),
        (one_way, "novelty.py", "", 1),
        (third_party, "plan.py", "import math\nimport torch.nn.functional as F\n", 0),
        (third_party, "plan.py", "def f():\n    import numpy\n", 1),
        (third_party, "integrations/timm.py", "import timm\nimport accelerate\n", 1),
        (third_party, "train/loop.py", "import accelerate\n", 0),
        (file_name, "ops/_helpers.py", "", 1),
        (file_length, "plan.py", "\n" * (FILE_LINES + 1), 1),
        (functions, "plan.py", BRANCHES, 1),
        (functions, "plan.py", BRANCHES.replace("if x == 9:\n        return 9", "return 9"), 0),
        (functions, "plan.py", "def f():\n" + "    f()\n" * FUNCTION_LINES, 1),
        (wording, "plan.py", "open('" + "/" + "tmp/x')\n", 1),
        (wording, "plan.py", "# see https://" + "py" + "pi.example/simple\n", 1),
    ],
)
def test_checks_bite(check: Check, path: str, source: str, complaints: int) -> None:
    """Each check finds what it is for, and nothing in code that keeps the rule."""
    assert len(list(check(SOURCE / path, source))) == complaints
