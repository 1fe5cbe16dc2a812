"""Measures the parts that were asked for, one after the other, and prints the report."""

import datetime
import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from stentor.knobs import to_json
from stentor.models import MODELS
from stentor.provenance import machine, versions
from training.bench.data_speed import DataBench
from training.bench.plan import (
    DATA,
    DEMO_BIG,
    FLAT,
    MEMORY,
    OURS,
    SPEED,
    STENTOR_BIG,
    TRAINER,
    Line,
    Plan,
)
from training.bench.report import count_of
from training.bench.speed import SpeedBench
from training.bench.subjects import open_subject

PACKAGES = ("transformers", "accelerate", "datasets", "numpy")
PROCESSOR_FILE = Path("/proc/cpuinfo")
# Without one of these a processor takes bf16 products apart into fp32 ones, hundreds of times
# slower than fp32.
BF16_UNITS = frozenset({"amx_bf16", "avx512_bf16"})


def run_plan(plan: Plan) -> int:
    """Measure and print; return 0, or 1 where something that was asked for failed."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = machine() | ({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {})
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    all_versions = versions() | {name: version(name) for name in PACKAGES}
    _say(_machine_line(found, plan))
    _say(f"{date}; " + ", ".join(f"{name} {text}" for name, text in all_versions.items()))
    lines, notes = choose_lines(device, processor_flags())
    for note in notes:
        _say(note)
    with TemporaryDirectory(prefix="stentor-training-bench-") as name:
        loops = SpeedBench(plan, device, Path(name), _say, _progress)
        model_folder = MODELS[DEMO_BIG].folder
        assert model_folder is not None
        text = DataBench(plan, model_folder, Path(name), _say, _progress)
        _measure_parts(plan, loops, text, lines)
    report = {
        "plan": to_json(plan),
        "date": date,
        "machine": found,
        "device": device,
        "versions": all_versions,
        "ceilings": loops.ceilings,
        "speed": [to_json(each) for each in loops.speeds],
        "ratios": [to_json(each) for each in loops.ratios],
        "memory": [to_json(each) for each in loops.memories],
        "data": [to_json(each) for each in text.speeds],
        "data_ratio": text.ratio,
        "flat": to_json(text.flatness) if text.flatness else None,
        "notes": [*notes, *loops.notes, *text.notes],
    }
    print(json.dumps(report), flush=True)
    return 1 if loops.notes or text.notes else 0


def _measure_parts(plan: Plan, loops: SpeedBench, text: DataBench, lines: Sequence[Line]) -> None:
    if SPEED in plan.parts or MEMORY in plan.parts:
        names = plan.shapes or ((STENTOR_BIG,) if loops.device == "cuda" else (DEMO_BIG,))
        subjects = [open_subject(name, loops.folder, loops.device) for name in names]
        for subject in subjects:
            _say(subject.title())
        if SPEED in plan.parts:
            loops.measure_speed(subjects, lines)
        if MEMORY in plan.parts:
            loops.measure_memory(subjects, lines)
    if DATA in plan.parts:
        text.measure_speed()
    if FLAT in plan.parts:
        text.measure_flatness()


def choose_lines(device: str, flags: frozenset[str]) -> tuple[list[Line], list[str]]:
    """Return what is measured on this device, and a note on what is left out.

    The Trainer runs as the card says, with gradient checkpointing, and without, as fast as it goes.
    """
    precision = "bf16" if device == "cuda" else "fp32"
    lines = [
        Line(OURS, precision),
        Line(TRAINER, precision, is_checkpointed=True),
        Line(TRAINER, precision),
        Line(OURS, precision, is_checkpointed=True),
    ]
    if device == "cuda":
        compiled = [Line(loop, precision, is_compiled=True) for loop in (OURS, TRAINER)]
        return [*lines, *compiled], []
    if not flags & BF16_UNITS:
        return lines, ["bf16 is left out: this processor has no units for its products."]
    return [*lines, Line(OURS, "bf16"), Line(TRAINER, "bf16")], []


def processor_flags() -> frozenset[str]:
    """Return what the processor can do, in Linux's words; nothing where no one says."""
    try:
        text = PROCESSOR_FILE.read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    flags = (line for line in text.splitlines() if line.startswith("flags"))
    return frozenset(next(flags, "").partition(":")[2].split())


def _machine_line(found: dict[str, str | int], plan: Plan) -> str:
    gpu = f", {found['gpu']}" if "gpu" in found else ""
    return (
        f"{found['processor']}, {found['cores']} cores, "
        f"{int(found['memory_bytes']) / 1e9:.1f} GB{gpu}, {found['system']}; "
        f"{count_of(plan.num_threads, 'thread')} in use"
    )


def _say(line: str) -> None:
    print(line, flush=True)


def _progress(line: str) -> None:
    print(f"... {line}", file=sys.stderr, flush=True)
