"""Wheel and source archive: they build without a network, hold the right files, and the wheel needs only torch."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# What the README's code is given, for a small model.
GIVEN = """\
import torch
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 100))
images, labels = torch.rand(4, 3, 8, 8), torch.randint(100, (4,))
loader, generator = [(images, labels)], torch.Generator()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
before = model[1].weight.detach().clone()
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build wheel and source archive with the installed backend, and return their folder."""
    pytest.importorskip("hatchling")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--sdist", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return out


def tracked() -> set[str]:
    """Return the files of the repository."""
    done = subprocess.run(["git", "ls-files"], check=False, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git repository")
    return {name for name in done.stdout.splitlines() if (ROOT / name).exists()}


def test_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    """Every file of the package, its typing marker, style sheets and templates; no tests, docs or caches."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        names = {name for name in content.namelist() if ".dist-info/" not in name}
        assert names == {name.removeprefix("src/") for name in tracked() if name.startswith("src/")}
        assert "mixwell/py.typed" in names
        (facts,) = (name for name in content.namelist() if name.endswith("METADATA"))
        described = HeaderParser().parsestr(content.read(facts).decode())
        (scripts,) = (name for name in content.namelist() if name.endswith("entry_points.txt"))
        assert content.read(scripts).decode().split() == ["[console_scripts]", "mixwell", "=", "mixwell_cli:main"]
    assert wheel.stat().st_size < 1_000_000
    needed = [each for each in described.get_all("Requires-Dist") or () if "extra ==" not in each]
    assert needed == ["torch>=2.7"]
    assert described["License-Expression"] == "Apache-2.0" and described["Name"] == "mixwell"


def test_source_archive_holds_what_tests_and_docs_need(built: Path) -> None:
    """All files of the repository but those that only version control uses."""
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
    assert {name for name in tracked() - names if not name.startswith((".git", ".ci"))} == set()
    assert archive.stat().st_size < 5_000_000


def dependencies(name: str) -> set[str]:
    """Return a distribution and all that it needs, without extras."""
    from packaging.requirements import Requirement

    found, waiting = set(), [name]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        needed = map(Requirement, requires)
        waiting += [each.name for each in needed if not each.marker or each.marker.evaluate({"extra": ""})]
    return found


def only_torch(folder: Path) -> None:
    """Link torch and what it needs into a folder."""
    for name in dependencies("torch"):
        for file in metadata.files(name) or ():
            first = file.parts[0]
            if first not in ("..", "__pycache__") and not (folder / first).exists():
                (folder / first).symlink_to(Path(str(metadata.distribution(name).locate_file(first))))


def test_wheel_with_only_torch_runs_the_readme(built: Path, tmp_path: Path) -> None:
    """In an environment that holds torch and the wheel and nothing else, the README's code trains a model."""
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    only_torch(site)
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", readme, re.DOTALL))
    after = (
        "import sys\nassert not torch.equal(model[1].weight, before)\n"
        f"assert mw.__file__.startswith({str(tmp_path)!r}), mw.__file__\n"
        "try:\n    import timm\nexcept ImportError:\n    print('only torch')\n"
    )
    (tmp_path / "readme.py").write_text(GIVEN + code + after, encoding="utf-8")
    python = [str(tmp_path / "env" / "bin" / "python"), "-I", "readme.py"]
    done = subprocess.run(python, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[-2] == "only torch"


def test_importing_mixwell_costs_little_beside_torch() -> None:
    """Only modules of mixwell are imported after torch, a fifth of torch's number at most."""
    code = "import sys, torch; n = set(sys.modules); import mixwell; print(len(n), *(set(sys.modules) - n))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    of_torch, *new = done.stdout.split()
    assert {name.partition(".")[0] for name in new} == {"mixwell"}
    assert len(new) < 0.2 * int(of_torch)
