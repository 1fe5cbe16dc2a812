"""Alarms of the pace: fewer tokens per second than before, and no step at all."""

from collections import deque
from collections.abc import Callable
from statistics import median

from training.alarm_settings import AlarmSettings
from training.alarms.finding import Event, Finding, number, stage_of
from training.alarms.place import Place

# Steps of which a median is taken: fewer are too few, however long they take.
FEWEST_STEPS = 16
RECENT_STEPS = 64
# Slow is over at this much more than the limit.
RECOVERED = 1.05
# Work between steps, such as a large checkpoint on a slow disk, may be silent this much longer.
WORK_FACTOR = 30.0
# Seconds. The watch looks twice a second; if it was late by more, all of the process was held up.
OVERSLEPT = 5.0
# Told by other threads than the one that trains: no sign of its life.
NO_SIGN = ("system", "alarm")


class Slow:
    """Tokens per second, in the median of a while, are far below the best while of this stage.

    Measured anew whenever a stage starts or goes on: memory settings or the machine may be others.
    """

    name = "slow"
    ends_with_run = True

    def __init__(self, settings: AlarmSettings) -> None:
        self._share = settings.throughput_share
        self._while = settings.throughput_seconds
        self._begin(0.0)

    def _begin(self, tokens_per_step: float) -> None:
        self._tokens_per_step = tokens_per_step
        self._best = 0.0
        self._next()

    def _next(self) -> None:
        self._speeds: list[float] = []
        self._seconds = 0.0

    def see(self, event: Event) -> Finding | None:
        """Judge the speed of a step."""
        if event["kind"] == "stage_started":
            self._begin(number(event, "tokens_per_step") or 0.0)
            return Finding(False, f"Stage {stage_of(event)} begins; its speed is measured anew.")
        speed = number(event, "tokens_per_second") if event["kind"] == "metrics" else None
        if not speed or speed < 0:
            return None
        self._speeds.append(speed)
        self._seconds += self._tokens_per_step / speed
        if len(self._speeds) < FEWEST_STEPS or self._seconds < self._while:
            return None
        now = median(self._speeds)
        self._next()
        self._best = max(self._best, now)
        return self._judge(now, self._share * self._best)

    def _judge(self, now: float, limit: float) -> Finding | None:
        if now < limit:
            return Finding(
                True,
                f"Training gives {now:,.0f} tokens/s and gave {self._best:,.0f} before in this "
                "stage. Another program, a slow disk or a hot machine may be the cause.",
                now,
                limit,
            )
        if now >= limit * RECOVERED:
            return Finding(False, f"Training gives {now:,.0f} tokens/s again.", now, limit)
        return None


class Stall:
    """No step for many times the median step, and for a minute at least.

    Between steps there is work that takes long (see place.py), and none can tell how long before
    the first step: these may be silent for WORK_FACTOR times as many seconds.
    """

    name = "stall"
    ends_with_run = True

    def __init__(self, settings: AlarmSettings, clock: Callable[[], float]) -> None:
        self._factor, self._seconds = settings.stall_factor, settings.stall_seconds
        self._clock = clock
        self._durations: deque[float] = deque(maxlen=RECENT_STEPS)
        self._tokens_per_step = 0.0
        self._last = "the start"
        self.begin()

    def begin(self) -> None:
        """Begin to wait now: what was seen until here came from a log."""
        self._sign = self._looked = self._clock()
        self._has_stepped = False

    def sign(self) -> None:
        """Take it for known that something moves, though no event told."""
        self._sign = self._clock()

    def see(self, event: Event) -> Finding | None:
        """Take an event of the training thread as a sign of life."""
        if event["kind"] in NO_SIGN:
            return None
        now = self._clock()
        silence, self._sign = now - self._sign, now
        stage = stage_of(event)
        if event["kind"] == "stage_started":
            self._has_stepped = False
            self._durations.clear()
            self._tokens_per_step = number(event, "tokens_per_step") or 0.0
            self._last = f"the start of stage {stage}"
        elif event["kind"] == "stage_finished":
            self._has_stepped = False
            self._last = f"the end of stage {stage}"
        elif event["kind"] == "metrics":
            self._has_stepped = True
            speed = number(event, "tokens_per_second")
            self._durations.append(self._tokens_per_step / speed if speed else 0.0)
            self._last = f"step {number(event, 'step') or 0:,.0f} of {stage}"
        return Finding(False, f"It goes on after {silence:,.0f} s, with {self._last}.", silence)

    def look(self, place: Place) -> Finding | None:
        """Judge the silence; called about twice a second, whatever happens."""
        now = self._clock()
        late = now - self._looked
        self._looked = now
        if late > OVERSLEPT:  # a suspended machine, a stopped process: the silence was not its own
            self._sign = min(now, self._sign + late)
        silence, limit = now - self._sign, self.limit(place)
        if silence <= limit:
            return None
        typical = f"; a step takes {median(self._durations):,.2f} s" if self._durations else ""
        work = f", in {place.work}" if place.work else ""
        line = f" The process is at {place.line}." if place.line else ""
        message = f"Nothing has happened for {silence:,.0f} s after {self._last}{work}{typical}."
        return Finding(True, message + line, silence, limit)

    def limit(self, place: Place) -> float:
        """Return the seconds of silence that are allowed now."""
        typical = self._factor * median(self._durations) if self._durations else 0.0
        is_work = place.work is not None or not self._has_stepped
        return max(self._seconds * (WORK_FACTOR if is_work else 1.0), typical)
