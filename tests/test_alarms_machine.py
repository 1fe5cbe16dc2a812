"""Alarms of the machine, judged on made-up readings."""

from alarm_events import changes, gpu, read, stepped

from training.alarm_settings import AlarmSettings
from training.alarms.machine import (
    FREE_READINGS,
    THROTTLED_READINGS,
    DeadWorker,
    DiskLow,
    HotGpu,
    ThrottledGpu,
)

GIGABYTE = 10**9


def test_the_hottest_gpu_is_told_and_must_cool_by_some_degrees() -> None:
    """At the very limit, an alarm that had no such margin came and went with every reading."""
    heats = [80, 86, 87, 88, 86, 87, 84, 87, 82, 86]
    events = [read(gpu=[gpu(0), gpu(1, temperature=float(heat))]) for heat in heats]
    raised, cleared = changes(HotGpu(AlarmSettings(), None), events)
    assert (raised[0], cleared[0]) == (2, 8)
    assert raised[1].message.startswith("GPU 1 (NVIDIA GeForce RTX 4090) has 87 degrees")
    assert (raised[1].value, raised[1].limit) == (87.0, 87.0)


def test_gpus_of_others_are_their_business() -> None:
    events = [read(gpu=[gpu(0), gpu(1, temperature=95.0, throttle=["thermal"])])] * 9
    assert changes(HotGpu(AlarmSettings(), (0,)), events) == []
    assert changes(ThrottledGpu((0,)), events) == []
    assert len(changes(HotGpu(AlarmSettings(), (0, 1)), events)) == 1


def test_a_gpu_that_tells_nothing_is_neither_hot_nor_cool() -> None:
    silent = [read(gpu=[gpu(temperature=None, throttle=None)]), read(gpu=[]), read()]
    hot = [read(gpu=[gpu(temperature=90.0, throttle=["thermal"])])] * THROTTLED_READINGS
    assert len(changes(HotGpu(AlarmSettings(), None), [*silent, *hot, *silent])) == 1
    assert len(changes(ThrottledGpu(None), [*silent, *hot, *silent])) == 1


def test_a_throttled_gpu_is_told_when_it_lasts_and_over_when_that_lasts() -> None:
    held = read(gpu=[gpu(throttle=["power", "thermal"])])
    free = read(gpu=[gpu(throttle=["power"])])
    once = [held, free] * 10
    events = [*once, *[held] * THROTTLED_READINGS, free, held, *[free] * FREE_READINGS]
    raised, cleared = changes(ThrottledGpu(None), events)
    assert raised[0] == len(once) + THROTTLED_READINGS - 1 and cleared[0] == len(events) - 1
    assert "slows itself down (thermal)" in raised[1].message


def test_a_card_at_its_power_limit_is_a_healthy_card() -> None:
    """Every RTX 4090 under full load once would have been an alarm."""
    assert changes(ThrottledGpu(None), [read(gpu=[gpu(throttle=["power"])])] * 50) == []


def test_a_disk_is_low_below_the_limit_and_needs_a_little_more_to_be_well() -> None:
    frees = [9.0, 5.1, 4.9, 5.1, 4.0, 5.6]
    events = [read(disk_free_bytes=int(free * GIGABYTE)) for free in frees]
    raised, cleared = changes(DiskLow(AlarmSettings()), events)
    assert (raised[0], cleared[0]) == (2, 5)
    assert raised[1].message == (
        "Only 4.9 GB are free on the disk of the run; the limit is 5.0 GB."
    )


def test_a_disk_must_hold_two_more_checkpoints() -> None:
    checkpoint = {"kind": "checkpoint", "stage": "general", "step": 8, "bytes": 4 * GIGABYTE}
    final = {**checkpoint, "bytes": GIGABYTE}
    room = read(disk_free_bytes=7 * GIGABYTE)
    judge = DiskLow(AlarmSettings())
    assert [place for place, _ in changes(judge, [room, checkpoint, final, room])] == [3]
    judge = DiskLow(AlarmSettings(disk_free_gigabytes=0.0))
    assert changes(judge, [read(disk_free_bytes=1), read(disk_free_bytes=None), read()]) == []


def test_a_lost_worker_is_there_again_with_the_next_step() -> None:
    judge = DeadWorker()
    finding = judge.lost(2, RuntimeError("[gloo/transport] Connection closed\n by peer [::1]:4711"))
    assert finding.is_wrong and finding.message.startswith("One of the 2 processes that train")
    assert finding.message.endswith("[gloo/transport] Connection closed by peer [::1]:4711")
    assert judge.see(read()) is None
    over = judge.see(stepped(9))
    assert over and not over.is_wrong
