"""The first call on a GPU: machine, tests, mixing, training steps, in order of importance within a time limit."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import gpu_mixing
import gpu_steps
import torch
from gpu_measure import Host, copy_rate, matmul_rate
from gpu_record import Record, Sections, clipped, machine
from gpu_steps import MODES

ROOT = Path(__file__).resolve().parents[1]
FIRST = ("test_device.py", "test_contract.py", "test_contract_apply.py", "test_contract_replay.py", "test_golden.py")
OUTCOME = re.compile(
    r"\b(PASSED|FAILED|ERROR|SKIPPED|XFAIL)\s+(\S.*)|^(\S.*::.*?)\s+(PASSED|FAILED|ERROR|SKIPPED|XFAIL)"
)
TABLE = 11_500  # longest text at the end of standard output (characters)


@dataclass(frozen=True)
class Plan:
    """What the sections measure, and how long each may take (seconds).

    Args:
        copied: Size of the buffer whose copy is the floor (bytes).
        side: Of the matrices whose product is the ceiling.
        seconds: Length of a series of those two.
        mixing: See :class:`gpu_mixing.Setting`.
        steps: Each with its time limit; see :class:`gpu_steps.Setting`.
        tests: Arguments of pytest.
        files: Pattern of the names of the test files.
        tests_limit: Time limit of the tests.
        mixing_limit: Time limit of mixing.
    """

    copied: int
    side: int
    seconds: float
    mixing: gpu_mixing.Setting
    steps: tuple[tuple[gpu_steps.Setting, float], ...]
    tests: tuple[str, ...]
    files: str = "test_*.py"
    tests_limit: float = 100
    mixing_limit: float = 90


def full() -> Plan:
    """Return what is measured on a GPU."""
    small = gpu_steps.Setting("resnet18", 100, (100, 3, 32, 32), MODES["eager"])
    large = gpu_steps.Setting("timm/resnet50", 1000, (128, 3, 224, 224), MODES["eager"])
    graphs = replace(small, mode=MODES["graphs"], methods=("plain", "CutMix", "CutMix + SUMix"))
    steps = (
        (small, 60.0),
        (replace(small, mode=MODES["whole"]), 100.0),
        (large, 60.0),
        (replace(small, mode=MODES["networks"], methods=tuple(gpu_steps.METHODS)[:4]), 60.0),
        (graphs, 45.0),
        (replace(large, mode=MODES["whole"]), 150.0),
    )
    tests = ("-m", "not slow", *(["-n", "8"] if find_spec("xdist") else []))
    return Plan(2 << 30, 8192, 0.5, gpu_mixing.Setting(), steps, tests)


def tiny() -> Plan:
    """Return the same in small, to see on a CPU that everything runs; nothing is compiled to machine code."""
    mixing = gpu_mixing.Setting(((4, 3, 16, 16), (4, 3, 8, 8)), total=1, seconds=0.0)
    eager = gpu_steps.Setting("mini_resnet", 10, (4, 3, 32, 32), MODES["eager"], seconds=0.0)
    large = replace(eager, model="timm/test_resnet", methods=("AutoMix",))
    whole = replace(eager, mode=replace(MODES["whole"], backend="eager"), methods=("plain",))
    some = ("-p", "no:xdist", "-k", "one_image_stays_alone and CutMix")
    return Plan(
        1 << 20,
        64,
        0.0,
        mixing,
        ((eager, 600), (large, 600), (whole, 600)),
        some,
        files="test_contract.py",
        tests_limit=600,
        mixing_limit=600,
    )


def run(on: Host, record: Record, plan: Plan, *, budget: float, only: list[str], commit: str | None) -> str:
    """Run the sections and return the table.

    Args:
        on: The device.
        record: Where every measurement is written.
        plan: What to measure.
        budget: Time of all sections (seconds).
        only: Names of sections, such as ``["tests"]``; empty for all.
        commit: Of the sources, where git cannot tell.
    """
    record.write("machine", **machine(on.name(), commit))
    sections, rates = Sections(record, budget), {}

    def measure_rates() -> None:
        for name, rate in (
            ("copy", partial(copy_rate, on, plan.copied)),
            ("matmul", partial(matmul_rate, on, plan.side)),
        ):
            rates[name], timing = rate(plan.seconds)
            record.write("ceiling", name=name, rate=rates[name], **vars(timing))

    sections.run("ceilings", 30, measure_rates)
    work = {
        "tests": (plan.tests_limit, partial(run_tests, on, record, plan)),
        "mixing": (plan.mixing_limit, lambda: gpu_mixing.measure(on, record, plan.mixing, rates["copy"])),
        **{
            f"steps {setting.model} {setting.mode.name}": (limit, partial(gpu_steps.measure, on, record, setting))
            for setting, limit in plan.steps
        },
    }
    torch.backends.cudnn.benchmark = True  # as the training program has it
    for name, (limit, section) in work.items():
        if not only or any(name.startswith(chosen) for chosen in only):
            sections.run(name, limit, section)
    return clipped(report(record, rates), TABLE)


def run_tests(on: Host, record: Record, plan: Plan) -> None:
    """Run the tests that take a device, and write what failed, also when the time is up."""
    tests = sorted((ROOT / "tests").glob(plan.files), key=lambda path: (path.name not in FIRST, path.name))
    shared = ROOT / "data" / "shared"  # reference numbers, where they were sent with the data
    command = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider", "--device", str(on.device)]
    command += ["--only-device", "--continue-on-collection-errors", *plan.tests]
    command += ["--shared", str(shared)] if shared.is_dir() else []
    log = record.path.with_name("tests.log")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, *map(str, tests)], cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            process.wait()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            write_outcomes(record, log.read_text(errors="replace"), process.returncode)


def write_outcomes(record: Record, log: str, returncode: int) -> None:
    """Count the outcomes in a log of ``pytest -v``, and list the failures."""
    found: dict[str, str] = {}
    for line in log.partition("short test summary")[0].splitlines():
        if match := OUTCOME.search(line):
            found[match[2] or match[3]] = match[1] or match[4]
    failed = sorted(name for name, outcome in found.items() if outcome in ("FAILED", "ERROR"))
    errors = [line.strip()[:300] for line in log.splitlines() if line.startswith(("E  ", "ERROR "))]
    record.write(
        "tests", **Counter(found.values()), failures=failed, errors=errors[:50], finished=returncode in (0, 1),
        exit=returncode,
    )  # fmt: skip


def report(record: Record, rates: dict[str, float]) -> str:
    """Return the table: machine, sections, tests, failures, mixing, steps."""
    (where,) = record.of("machine")
    lines = [f"{where['device']}, Python {where['python']}, CUDA {where['cuda']}, commit {where['commit']}"]
    lines += [", ".join(f"{name} {version}" for name, version in where["versions"].items())]
    lines += [f"{name}: {rate / 1e12:.3f} T{'B' if name == 'copy' else 'FLOP'}/s" for name, rate in rates.items()]
    lines += [f"section {row['name']}: {row['outcome']}, {row['seconds']} s" for row in record.of("section")]
    for row in record.of("tests"):
        counts = ", ".join(
            f"{row[key]} {key.lower()}" for key in ("PASSED", "FAILED", "ERROR", "SKIPPED") if key in row
        )
        lines.append(f"tests: {counts or 'none'}" + ("" if row["finished"] else f", not finished, exit {row['exit']}"))
        lines += [f"  failed: {name[:140]}" for name in row["failures"][:20]]
    lines += [f"failure: {row['what']}: {row['error'][:140]}" for row in record.of("failure")]
    lines += [f"not installed: {row['name']}" for row in record.of("peer")]
    refused = Counter(row["call"] for row in record.of("refused"))
    lines += [f"refused {count} of the batches: {name}" for name, count in refused.items()]
    steps = gpu_steps.report(record, rates.get("matmul", float("nan")))
    return "\n\n".join(filter(None, ["\n".join(lines), gpu_mixing.report(record), steps]))
