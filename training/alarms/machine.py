"""Alarms of the machine: hot or throttled GPUs, a disk that gets full, a worker that is gone."""

from collections.abc import Collection
from typing import Any

from training.alarm_settings import AlarmSettings
from training.alarms.finding import Event, Finding, number, stage_of

# Degrees Celsius below the limit at which a hot GPU is cool again.
COOLED_BY = 5.0
# Readings, one every five seconds: a GPU is held back for a moment now and then.
THROTTLED_READINGS = 3
FREE_READINGS = 6
# Every card reaches its power limit under full load; that is how it is built, and no alarm.
NORMAL_THROTTLE = ("power",)
GIGABYTE = 1e9
CHECKPOINTS_LEFT = 2
# A disk is no longer low when this share more than the limit is free.
DISK_RECOVERED = 1.1


class HotGpu:
    """A GPU of this run is at the limit; over when all are some degrees below it."""

    name = "hot_gpu"
    ends_with_run = True

    def __init__(self, settings: AlarmSettings, devices: Collection[int] | None) -> None:
        self._limit = settings.gpu_temperature
        self._devices = devices

    def see(self, event: Event) -> Finding | None:
        """Judge a reading of the machine."""
        read = [(number(gpu, "temperature"), gpu) for gpu in _gpus(event, self._devices)]
        known = [(heat, _name_of(gpu)) for heat, gpu in read if heat is not None]
        if not known:
            return None
        heat, name = max(known)
        if heat >= self._limit:
            message = f"{name} has {heat:.0f} degrees Celsius. Look at its fans and its air."
            return Finding(True, message, heat, self._limit)
        if heat <= self._limit - COOLED_BY:
            return Finding(False, f"{name}, the hottest, has {heat:.0f} degrees.", heat)
        return None


class ThrottledGpu:
    """A GPU of this run is held back by heat or its power supply for several readings in a row.

    Its power limit is not counted: full load means that, on a healthy card.
    """

    name = "throttled_gpu"
    ends_with_run = True

    def __init__(self, devices: Collection[int] | None) -> None:
        self._devices = devices
        self._num_held: dict[str, int] = {}
        self._num_free = 0

    def see(self, event: Event) -> Finding | None:
        """Judge a reading of the machine."""
        gpus = [gpu for gpu in _gpus(event, self._devices) if gpu.get("throttle") is not None]
        if not gpus:
            return None
        reasons = {_name_of(gpu): _reasons(gpu) for gpu in gpus}
        held = {name: self._num_held.get(name, 0) + 1 for name, why in reasons.items() if why}
        self._num_held, self._num_free = held, 0 if held else self._num_free + 1
        longest = max(held, key=lambda name: held[name], default="")
        if longest and held[longest] >= THROTTLED_READINGS:
            why = ", ".join(reasons[longest])
            message = f"{longest} slows itself down ({why}): look at its cooling and its supply."
            return Finding(True, message, float(held[longest]), float(THROTTLED_READINGS))
        if self._num_free >= FREE_READINGS:
            return Finding(False, "No GPU slows itself down any more.")
        return None


class DiskLow:
    """The run's disk has less free than asked for, or than two more checkpoints need."""

    name = "disk_low"
    ends_with_run = True

    def __init__(self, settings: AlarmSettings) -> None:
        self._asked = settings.disk_free_gigabytes * GIGABYTE
        self._checkpoint = 0.0

    def see(self, event: Event) -> Finding | None:
        """Judge a reading of the machine by the largest checkpoint so far."""
        if event["kind"] == "checkpoint":
            self._checkpoint = max(self._checkpoint, number(event, "bytes") or 0.0)
        free = number(event, "disk_free_bytes") if event["kind"] == "system" else None
        if free is None:
            return None
        limit = max(self._asked, CHECKPOINTS_LEFT * self._checkpoint)
        shown = f"{free / GIGABYTE:,.1f} GB"
        if free < limit:
            message = f"Only {shown} are free on the disk of the run; {self._why()}."
            return Finding(True, message, free, limit)
        if free >= limit * DISK_RECOVERED:
            return Finding(False, f"{shown} are free on the disk again.", free, limit)
        return None

    def _why(self) -> str:
        if CHECKPOINTS_LEFT * self._checkpoint > self._asked:
            return f"a checkpoint takes {self._checkpoint / GIGABYTE:,.1f} GB"
        return f"the limit is {self._asked / GIGABYTE:,.1f} GB"


class DeadWorker:
    """Another process that trains this run is gone; over when steps go on after a resume."""

    name = "dead_worker"
    ends_with_run = False

    def see(self, event: Event) -> Finding | None:
        """Take a step as the proof that all workers are there."""
        if event["kind"] != "metrics":
            return None
        return Finding(False, f"All workers train {stage_of(event)} again.")

    def lost(self, num_workers: int, error: BaseException) -> Finding:
        """Return the alarm for an error of a meeting; the error may name the other end."""
        words = " ".join(str(error).split())[:200]
        return Finding(
            True,
            f"One of the {num_workers} processes that train this run has ended; no step can be "
            f"taken without it. What the others noticed: {words}",
            float(num_workers - 1),
            float(num_workers),
        )


def _gpus(event: Event, devices: Collection[int] | None) -> list[dict[str, Any]]:
    """Return the readings of the GPUs that the run trains on; all where it names none."""
    listed = event.get("gpu") if event["kind"] == "system" else None
    gpus = [gpu for gpu in listed if isinstance(gpu, dict)] if isinstance(listed, list) else []
    return [gpu for gpu in gpus if devices is None or gpu.get("index") in devices]


def _name_of(gpu: dict[str, Any]) -> str:
    return f"GPU {gpu.get('index', '?')} ({gpu.get('name', 'unknown')})"


def _reasons(gpu: dict[str, Any]) -> list[str]:
    words = gpu["throttle"] if isinstance(gpu["throttle"], list | tuple) else ()
    return [str(word) for word in words if word not in NORMAL_THROTTLE]
