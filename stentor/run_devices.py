"""Which GPUs a run uses, who else uses them, and how its process is told.

A set of devices is what recipe.json says: `0,1`, or nothing for all there are (the CPU, where there
is no GPU). These are names to whoever keeps runs apart: whether such a GPU exists is found out by
the preflight, and by the run itself when it starts. Standard library only.
"""

from collections.abc import Mapping

from stentor.runs import Run, recipe_text

VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"
# A variable that was changed for a run is kept under this prefix, for the next run that it starts.
BEFORE = "STENTOR_BEFORE_"


def devices_of(run: Run) -> str:
    """Return the devices in the run's recipe; nothing (all) where that cannot be read."""
    return recipe_text(run, "devices")


def share_device(one: str, other: str) -> bool:
    """Tell whether two sets have a device in common; a set that names none is all of them."""
    first, second = _names(one), _names(other)
    return not first or not second or bool(first & second)


def _names(devices: str) -> set[str]:
    # GPU 01 is GPU 1.
    return {name.strip().lstrip("0") or "0" for name in devices.split(",") if name.strip()}


def describe_devices(devices: str) -> str:
    """Return a set in words: `GPU 0`, `GPUs 0,1` or `all devices`."""
    if not devices:
        return "all devices"
    return f"GPU {devices}" if "," not in devices else f"GPUs {devices}"


def for_devices(environment: Mapping[str, str], devices: str) -> dict[str, str]:
    """Return the environment of a process that trains on `devices` only."""
    if not devices:
        return dict(environment)
    # NVML and nvidia-smi number GPUs by their slot; CUDA by speed, unless told.
    return changed(environment, {VISIBLE: devices, ORDER: "PCI_BUS_ID"})


def changed(environment: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """Return an environment with other values, that `restored` takes back."""
    before = {BEFORE + name: environment.get(name, "") for name in values}
    # What was kept first is what the user gave.
    return {**before, **environment, **values}


def restored(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment as it was before this run; empty and absent are the same."""
    kept = {name: value for name, value in environment.items() if not name.startswith(BEFORE)}
    for name, value in environment.items():
        if name.startswith(BEFORE):
            kept.pop(name.removeprefix(BEFORE), None)
            if value:
                kept[name.removeprefix(BEFORE)] = value
    return kept
