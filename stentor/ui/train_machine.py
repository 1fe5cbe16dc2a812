"""What a run computes on, as it is now: a line per GPU, or the CPU and its memory.

Everything that is not written in this file is escaped. Knows no Gradio and changes nothing.
"""

from collections.abc import Mapping
from typing import Any

from stentor.ui.chart import Digest, as_number
from stentor.ui.shared import escape, file_size

THROTTLE_WORDS = {"thermal": "heat", "power": "power limit"}
NOT_YET = "<p class='soft'>The load is measured every few seconds while a run is going.</p>"


def panel(digest: Digest) -> str:
    """Return the machine's name and a line per device: bar, memory, power, temperature."""
    machine, system = digest.machine, digest.system
    gpus = [gpu for gpu in _list(system.get("gpu")) if isinstance(gpu, Mapping)]
    lines = "".join(_gpu(gpu, place) for place, gpu in enumerate(gpus)) + _computer(system)
    name = ", ".join(_names(machine))
    title = f'<p class="soft">{escape(name)}</p>' if name else ""
    return f'<h4>Machine</h4>{title}<ul class="devices">{lines}</ul>{"" if lines else NOT_YET}'


def _names(machine: Mapping[str, Any]) -> list[str]:
    """Return what the run said of its machine when it began."""
    names = [str(machine[name]) for name in ("name",) if machine.get(name)]
    cores = as_number(machine.get("num_cores"))
    workers = as_number(machine.get("num_workers"))
    if cores is not None:
        names.append(f"{cores:.0f} {'core' if cores == 1 else 'cores'}")
    if workers is not None and workers > 1:
        names.append(f"{workers:.0f} workers")
    if machine.get("torch_version"):
        names.append(f"torch {machine['torch_version']}")
    return names


def _gpu(gpu: Mapping[str, Any], place: int) -> str:
    """Return one GPU; what NVML could not tell is left out."""
    index = as_number(gpu.get("index"))
    busy = as_number(gpu.get("utilisation"))
    title = f"GPU {place if index is None else round(index)}"
    words = [_of(gpu, "memory_bytes", "total_bytes")]
    watts, limit = as_number(gpu.get("power_watts")), as_number(gpu.get("power_limit_watts"))
    if watts is not None:
        words.append(f"{watts:.0f} W" if limit is None else f"{watts:.0f} of {limit:.0f} W")
    heat = as_number(gpu.get("temperature"))
    if heat is not None:
        words.append(f"{heat:.0f} °C")
    reasons = [THROTTLE_WORDS.get(str(why), str(why)) for why in _list(gpu.get("throttle"))]
    slow = f'<span class="pill slowed">slowed by {escape(", ".join(reasons))}</span>'
    return _device(title, str(gpu.get("name") or ""), busy, words, slow if reasons else "")


def _computer(system: Mapping[str, Any]) -> str:
    """Return the CPU and the memory of the machine, and what of it this run takes."""
    busy = as_number(system.get("cpu_percent"))
    if not system:
        return ""
    words = [_of(system, "memory_used_bytes", "memory_total_bytes")]
    own = as_number(system.get("memory_bytes"))
    if own is not None:
        words.append(f"this run {file_size(own)}")
    free = as_number(system.get("disk_free_bytes"))
    if free is not None:
        words.append(f"disk {file_size(free)} free")
    return _device("CPU", "", busy, words)


def _device(title: str, name: str, busy: float | None, words: list[str], extra: str = "") -> str:
    share = "-" if busy is None else f"{busy:.0f} %"
    bar = (
        ""
        if busy is None
        else f'<meter min="0" max="100" value="{min(100.0, max(0.0, busy)):.0f}" '
        f'aria-label="{escape(title)} busy">{share}</meter>'
    )
    told = escape(" · ".join(word for word in words if word))
    kind = f' <span class="soft">{escape(name)}</span>' if name else ""
    return (
        f'<li><div class="device-line"><b>{escape(title)}</b>{kind}<span>{share}</span></div>{bar}'
        f'<div class="soft">{told}</div>{extra}</li>'
    )


def _of(values: Mapping[str, Any], used_name: str, total_name: str) -> str:
    used, total = as_number(values.get(used_name)), as_number(values.get(total_name))
    if used is None:
        return ""
    return file_size(used) if total is None else f"{file_size(used)} of {file_size(total)}"


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
