"""Alarms of the loss, judged on made-up events."""

import math
import random
from dataclasses import replace
from typing import Any

import pytest
from alarm_events import changes, noisy, started, stepped

from training.alarm_settings import AlarmSettings
from training.alarms.finding import Event, number
from training.alarms.loss import BACK_STEPS, NotFinite, Plateau, Spike
from training.settings import PretrainSettings

STAGES = {"general": PretrainSettings(num_steps=1_000, learning_rate=1e-3, warmup_fraction=0.05)}


def steps(losses: list[float], stage: str = "general") -> list[Event]:
    return [started(stage), *(stepped(n, loss, stage) for n, loss in enumerate(losses, start=1))]


@pytest.mark.parametrize("kind", ["metrics", "validation", "halted"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_told_wherever_it_appears(kind: str, value: float) -> None:
    judge = NotFinite()
    assert judge.see(stepped(8)) is not None
    finding = judge.see({"kind": kind, "stage": "general", "step": 9, "loss": value})
    assert finding and finding.is_wrong and f"{value} at step 9 of general" in finding.message


def test_an_infinite_gradient_is_told_beside_a_sound_loss() -> None:
    finding = NotFinite().see(stepped(9, gradient_norm=math.inf))
    assert finding and finding.message.startswith("The gradient norm is inf at step 9")


def test_a_bad_step_is_over_when_it_was_taken_and_not_before() -> None:
    """A run resumed before the bad step meets it again: until then nothing is known to be well."""
    bad = stepped(9, math.nan)
    again = [stepped(step) for step in (5, 6, 7, 8, 9)]
    raised, cleared = changes(NotFinite(), [stepped(8), bad, started(step=4), *again])
    assert (raised[0], cleared[0]) == (1, 7)
    assert cleared[1].message.endswith("step 9 of general.")


def test_a_spike_is_told_once_and_over_when_the_loss_is_back() -> None:
    losses = list(noisy(300))
    losses[200:204] = [4.5, 7.0, 5.1, 6.0]
    raised, cleared = changes(Spike(AlarmSettings()), steps(losses))
    assert raised[0] == 201 and "jumped to 4.500 at step 201 of general" in raised[1].message
    assert raised[1].value == 4.5 and 3.5 < (raised[1].limit or 0) < 4.5
    assert cleared[0] == 204 + BACK_STEPS and cleared[1].message.startswith("The loss is back: 3.")


def test_a_loss_that_never_comes_back_stays_an_alarm() -> None:
    losses = list(noisy(400))
    losses[200:] = [6.0] * 200
    assert len(changes(Spike(AlarmSettings()), steps(losses))) == 1


@pytest.mark.parametrize("seed", range(20))
def test_noise_and_a_change_of_stage_are_no_spikes(seed: int) -> None:
    """The loss of another text is another; the first steps of a stage judge nothing."""
    events = steps(list(noisy(2_000, seed=seed))) + steps(
        list(noisy(2_000, 6.0, seed=seed)), "story"
    )
    assert changes(Spike(AlarmSettings()), events) == []


def test_a_rare_harder_text_is_told_of_once_at_most() -> None:
    """One batch in fifty from a harder source once would have been a spike each."""
    losses = list(noisy(2_000))
    losses[200::50] = [4.5] * len(losses[200::50])
    found = changes(Spike(AlarmSettings()), steps(losses))
    assert [finding.is_wrong for _, finding in found] == [True, False]


def test_losses_that_hardly_differ_make_no_spike() -> None:
    losses = [0.020 + 0.0001 * (step % 3) for step in range(200)]
    losses[150] = 0.025
    assert changes(Spike(AlarmSettings()), steps(losses)) == []


def test_a_new_stage_ends_the_spike_of_the_one_before() -> None:
    losses = list(noisy(200))
    losses[190:] = [9.0] * 10
    raised, cleared = changes(Spike(AlarmSettings()), steps(losses) + steps([5.0], "story"))
    assert raised[0] == 191 and cleared[0] == 201
    assert cleared[1].message == "Stage story begins; its loss is another."


def test_steps_that_a_resumed_run_repeats_are_judged_once() -> None:
    losses = list(noisy(200))
    losses[100:103] = [8.0, 8.0, 8.0]
    events = steps(losses)
    repeated = [*events[:103], started(step=90), *events[91:]]
    assert len(changes(Spike(AlarmSettings()), repeated)) == 2


def falling(num_steps: int, **values: Any) -> list[Event]:  # noqa: ANN401
    return [started(), *(stepped(n, 5.0 - n / 500, **values) for n in range(1, num_steps + 1))]


def test_a_plateau_is_told_after_its_steps_and_over_with_the_next_lower_loss() -> None:
    judge = Plateau(AlarmSettings(plateau_steps=100), STAGES)
    flat = [stepped(step, 4.4) for step in range(301, 700)]
    lower = [stepped(step, 4.0) for step in range(700, 720)]
    raised, cleared = changes(judge, [*falling(300), *flat, *lower])
    # The smoothed loss goes on falling for a while after the loss has stopped.
    assert 400 <= raised[0] <= 600 and 700 <= cleared[0] <= 705
    assert raised[1].limit == 100.0 and "for 100 steps" in raised[1].message


@pytest.mark.parametrize("seed", range(5))
def test_a_flat_loss_is_a_plateau_whatever_the_noise(seed: int) -> None:
    noise = random.Random(seed)
    flat = steps([3.0 + noise.gauss(0.0, 0.3) for _ in range(950)])
    found = changes(Plateau(AlarmSettings(plateau_steps=300), STAGES), flat)
    assert found[0][1].is_wrong and len(found) <= 3, "noise makes a record now and then"


@pytest.mark.parametrize("seed", range(5))
def test_slow_progress_under_noise_is_no_plateau(seed: int) -> None:
    noise = random.Random(seed)
    events = steps([3.0 - n / 20_000 + noise.gauss(0.0, 0.1) for n in range(15_000)])
    stages = {"general": replace(STAGES["general"], num_steps=15_000)}
    assert changes(Plateau(AlarmSettings(), stages), events) == []


def test_no_plateau_is_told_of_a_warm_up_or_of_a_rate_of_next_to_nothing() -> None:
    settings = AlarmSettings(plateau_steps=20)
    warming = [started(), *(stepped(n, 3.0) for n in range(1, 51))]
    assert changes(Plateau(settings, STAGES), warming) == []
    ending = [started(), *(stepped(n, 3.0, learning_rate=5e-5) for n in range(51, 1_000))]
    assert changes(Plateau(settings, STAGES), ending) == []


def test_a_plateau_can_be_switched_off() -> None:
    flat = [started(), *(stepped(n, 3.0) for n in range(1, 1_000))]
    assert changes(Plateau(AlarmSettings(plateau_steps=0), STAGES), flat) == []


@pytest.mark.parametrize("value", [None, "3", True, math.nan, [3.0]])
def test_a_damaged_event_holds_no_number(value: object) -> None:
    assert number({"kind": "metrics", "loss": value}, "loss") is None
    for judge in (NotFinite(), Spike(AlarmSettings()), Plateau(AlarmSettings(), STAGES)):
        judge.see({"kind": "metrics", "stage": value, "step": value, "loss": value})
        judge.see({"kind": "stage_started"})
