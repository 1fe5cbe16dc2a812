"""Alarms of the pace: a clock that a test sets, and made-up events."""

import importlib.util

from alarm_events import changes, read, started, stepped

from training.alarm_settings import AlarmSettings
from training.alarms.finding import Event
from training.alarms.place import WORK, Place, place_of
from training.alarms.speed import FEWEST_STEPS, OVERSLEPT, WORK_FACTOR, Slow, Stall

STEPPING = Place(None, "training.loop.train_steps, line 60, in all_reduce")
SAVING = Place("a checkpoint")


def at_speed(speed: float, count: int, first: int = 1) -> list[Event]:
    return [stepped(first + n, tokens_per_second=speed) for n in range(count)]


def test_slow_is_told_by_the_median_of_a_while_and_over_when_it_is_well_above() -> None:
    """A step of 2,048 tokens takes a second at first, and two seconds then: while is a minute."""
    events = [started(), *at_speed(2_048, 200), *at_speed(1_024, 200), *at_speed(2_000, 200)]
    raised, cleared = changes(Slow(AlarmSettings()), events)
    assert 230 <= raised[0] <= 300 and 401 <= cleared[0] <= 500
    assert (raised[1].value, raised[1].limit) == (1_024.0, 0.6 * 2_048)
    assert "gives 1,024 tokens/s and gave 2,048 before" in raised[1].message


def test_a_few_slow_steps_and_slow_first_steps_are_not_slow() -> None:
    dips = [event for n in range(20) for event in (*at_speed(2_048, 40), *at_speed(50, 2))]
    assert changes(Slow(AlarmSettings()), [started(), *at_speed(100, 5), *dips]) == []


def test_a_moment_of_fast_small_steps_is_no_while() -> None:
    """A hundred steps of a practice run are over in a second; another program may have had it."""
    events = [started(), *at_speed(1e6, 1_000), *at_speed(1e5, 1_000)]
    assert changes(Slow(AlarmSettings()), events) == []
    settings = AlarmSettings(throughput_seconds=0.0)
    assert len(changes(Slow(settings), events)) == 1


def test_a_stage_that_goes_on_is_measured_anew() -> None:
    """It may go on with fewer GPUs, or with other memory settings."""
    slow = at_speed(512, 200)
    events = [started(), *at_speed(2_048, 200), started(step=200), *slow]
    assert changes(Slow(AlarmSettings()), events) == []
    events = [started(), *at_speed(2_048, 200), *slow, started("story"), *slow]
    assert [finding.is_wrong for _, finding in changes(Slow(AlarmSettings()), events)] == [
        True,
        False,
    ]


class Clock:
    """Seconds, as a test sets them."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def stepping(clock: Clock, seconds_per_step: float = 1.0) -> Stall:
    """Return a judge that has seen a stage begin and twenty steps."""
    judge = Stall(AlarmSettings(), clock)
    judge.see(started())
    for step in range(1, 21):
        clock.now += seconds_per_step
        judge.see(stepped(step, tokens_per_second=2_048 / seconds_per_step))
        assert judge.look(STEPPING) is None
    return judge


def wait(judge: Stall, clock: Clock, seconds: float, place: Place = STEPPING) -> str | None:
    """Let time pass, looking twice a second as the watch does; return the alarm, if one comes."""
    for _ in range(round(2 * seconds)):
        clock.now += 0.5
        finding = judge.look(place)
        if finding:
            return finding.message
    return None


def test_a_stall_is_told_with_where_the_process_is_and_over_with_the_next_step() -> None:
    clock = Clock()
    judge = stepping(clock)
    assert wait(judge, clock, 60) is None
    message = wait(judge, clock, 1)
    assert message == (
        "Nothing has happened for 60 s after step 20 of general; a step takes 1.00 s. The process "
        "is at training.loop.train_steps, line 60, in all_reduce."
    )
    clock.now += 9.5
    over = judge.see(stepped(21))
    assert over and over.message == "It goes on after 70 s, with step 21 of general."


def test_slow_steps_need_a_longer_silence() -> None:
    clock = Clock()
    judge = stepping(clock, 30.0)
    assert wait(judge, clock, 300) is None and wait(judge, clock, 1)


def test_work_between_steps_is_no_stall_unless_it_takes_absurdly_long() -> None:
    clock = Clock()
    judge = stepping(clock)
    assert wait(judge, clock, 60 * WORK_FACTOR, SAVING) is None
    assert ", in a checkpoint; a step takes" in (wait(judge, clock, 1, SAVING) or "")


def test_nobody_knows_how_long_it_takes_to_the_first_step() -> None:
    clock = Clock()
    judge = Stall(AlarmSettings(), clock)
    judge.see(started())
    assert wait(judge, clock, 60 * WORK_FACTOR) is None and wait(judge, clock, 1)
    for event in ({"kind": "stage_finished", "stage": "general"}, started("story")):
        judge = stepping(clock)
        judge.see(event)
        assert wait(judge, clock, 600) is None


def test_readings_of_the_machine_come_from_another_thread() -> None:
    """They went on while the training thread hung, and the run looked alive."""
    clock = Clock()
    judge = stepping(clock)
    for _ in range(13):
        assert judge.see(read()) is None
        message = wait(judge, clock, 5)
    assert message


def test_a_suspended_machine_has_not_stalled() -> None:
    clock = Clock()
    judge = stepping(clock)
    clock.now += 8 * 3_600
    assert judge.look(STEPPING) is None
    assert wait(judge, clock, 60 - OVERSLEPT) is None and wait(judge, clock, 2 * OVERSLEPT)


def test_the_words_for_work_name_modules_that_exist() -> None:
    for module in WORK:
        assert importlib.util.find_spec(module), module


def test_few_steps_are_no_while() -> None:
    settings = AlarmSettings(throughput_seconds=0.0)
    events = [started(), *at_speed(2_048, FEWEST_STEPS), *at_speed(1, FEWEST_STEPS - 1)]
    assert changes(Slow(settings), events) == []


def test_a_thread_that_is_gone_is_nowhere() -> None:
    assert place_of(-1) == Place(None, "")
