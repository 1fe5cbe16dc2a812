"""Alarms of the loss: not a number, a spike, a plateau. They see nothing but events."""

import math
from collections import deque
from collections.abc import Mapping
from statistics import median

from training.alarm_settings import AlarmSettings
from training.alarms.finding import Event, Finding, StagePlace, is_not_finite, number, stage_of
from training.settings import PretrainSettings

# Losses that a spike is judged by: enough that a rare, harder text is among them.
RECENT_STEPS = 128
FEWEST_STEPS = 32
# The median absolute deviation of a normal distribution is this much below its standard one.
MAD_TO_DEVIATION = 1.4826
# Nats. Losses that hardly differ would make a spike of nothing; logs show two digits more.
SMALLEST_DEVIATION = 0.01
# The loss is back after so many steps in a row below half the height of a spike.
BACK_STEPS = 5
# Nats. A smoothed loss that is lower by less is not lower, nor is one that is lower by less than
# its own standard deviation: noise alone makes such records.
SMALLEST_GAIN = 0.002
# The smoothed loss remembers a quarter of the plateau, at most so many steps.
MOST_SMOOTHING = 2_000
# Share of the peak rate below which nobody expects the loss to fall: the end of a schedule.
LOW_RATE = 0.1


class NotFinite:
    """The loss or the gradient is NaN or infinite; over when the step was taken after all."""

    name = "not_finite"
    ends_with_run = False

    def __init__(self) -> None:
        self._stage, self._step = "", 0

    def see(self, event: Event) -> Finding | None:
        """Judge training steps and validations; the news of a halt says the same again."""
        if event["kind"] not in ("metrics", "validation", "halted"):
            return None
        names = [name for name in ("loss", "gradient_norm") if is_not_finite(event, name)]
        step = int(number(event, "step") or 0)
        if names:
            self._stage, self._step = stage_of(event), step
            return self._wrong(event, names[0])
        is_past = stage_of(event) != self._stage or step >= self._step
        if event["kind"] == "metrics" and is_past:
            place = f"step {step:,} of {stage_of(event)}"
            return Finding(False, f"The loss is a number again, and past the bad step: {place}.")
        return None

    def _wrong(self, event: Event, name: str) -> Finding:
        what = {"loss": "The loss", "gradient_norm": "The gradient norm"}[name]
        if event["kind"] == "validation":
            what = "The validation loss"
        value = float(event[name])
        return Finding(
            True,
            f"{what} is {value} at step {self._step:,} of {self._stage}. Nothing of it is saved: "
            "the run halts, and names the text it came from.",
            value,
        )


class Spike:
    """The loss jumps far above the recent ones: by median and median absolute deviation.

    Silent for the first steps of a stage, where other text may well have another loss. What is no
    higher than one of the recent losses is no news, so a rare harder text is told of once at most.
    """

    name = "spike"
    ends_with_run = False

    def __init__(self, settings: AlarmSettings) -> None:
        self._deviations = settings.spike_deviations
        self._place = StagePlace()
        self._losses: deque[float] = deque(maxlen=RECENT_STEPS)
        self._spike: Finding | None = None
        self._back, self._num_back, self._peak = 0.0, 0, 0.0  # of the spike under way

    def see(self, event: Event) -> Finding | None:
        """Judge the loss of a step."""
        begins = self._place.begins(event)
        if begins:
            self._losses.clear()
            self._spike = None
        loss = number(event, "loss") if self._place.is_new(event) else None
        finding = None if loss is None else self._judge(loss)
        if begins:
            return Finding(False, f"Stage {self._place.stage} begins; its loss is another.")
        return finding

    def _judge(self, loss: float) -> Finding | None:
        if self._spike is not None:
            return self._during(loss, self._spike)
        # The cheap question first: hardly ever is a loss above all of the last 128.
        if len(self._losses) >= FEWEST_STEPS and loss > max(self._losses):
            middle = median(self._losses)
            spread = median(abs(other - middle) for other in self._losses)
            height = self._deviations * max(MAD_TO_DEVIATION * spread, SMALLEST_DEVIATION)
            if loss > middle + height:
                return self._begin(loss, middle, height)
        self._losses.append(loss)
        return None

    def _begin(self, loss: float, middle: float, height: float) -> Finding:
        self._back, self._num_back, self._peak = middle + height / 2, 0, loss
        self._spike = Finding(
            True,
            f"The loss jumped to {loss:.3f} at step {self._place.step:,} of {self._place.stage}; "
            f"it was around {middle:.3f}. If it does not come back soon, resume from an earlier "
            "checkpoint with a lower learning rate.",
            loss,
            middle + height,
        )
        return self._spike

    def _during(self, loss: float, spike: Finding) -> Finding | None:
        """Wait for the loss to be back; of the losses meanwhile only the highest is remembered."""
        self._peak = max(self._peak, loss)
        self._num_back = self._num_back + 1 if loss <= self._back else 0
        if self._num_back < BACK_STEPS:
            return spike
        self._losses.append(self._peak)
        self._spike = None
        return Finding(False, f"The loss is back: {loss:.3f}.", loss, self._back)


class Plateau:
    """The smoothed loss has not got lower for long.

    Steps of the warm-up, and those at the end of a schedule whose rate is next to nothing, do not
    count: nobody expects the loss to fall there.
    """

    name = "plateau"
    ends_with_run = False

    def __init__(self, settings: AlarmSettings, stages: Mapping[str, PretrainSettings]) -> None:
        self._steps = settings.plateau_steps
        self._memory = min(MOST_SMOOTHING, max(1, settings.plateau_steps // 4))
        self._stages = stages
        self._place = StagePlace()
        self._forget()

    def _forget(self) -> None:
        self._num_seen, self._num_waited = 0, 0
        self._smoothed, self._variance, self._lowest = 0.0, 0.0, math.inf

    def see(self, event: Event) -> Finding | None:
        """Judge the loss of a step."""
        begins = self._place.begins(event)
        if begins:
            self._forget()
        loss = number(event, "loss") if self._place.is_new(event) else None
        counts = self._steps and loss is not None and self._is_expected_to_fall(event)
        finding = self._judge(loss) if counts and loss is not None else None
        if begins:
            return Finding(False, f"Stage {self._place.stage} begins; its loss is another.")
        return finding

    def _is_expected_to_fall(self, event: Event) -> bool:
        settings = self._stages.get(self._place.stage)
        rate = number(event, "learning_rate")
        if settings is None or rate is None:
            return False
        warmup_steps = settings.total_steps() * settings.warmup_fraction
        return self._place.step > warmup_steps and rate >= LOW_RATE * settings.learning_rate

    def _judge(self, loss: float) -> Finding | None:
        self._num_seen += 1
        weight = 1 / min(self._num_seen, self._memory)  # at first a plain mean
        surprise = loss - self._smoothed
        self._smoothed += weight * surprise
        self._variance += weight * (surprise**2 - self._variance) if self._num_seen > 1 else 0.0
        if self._num_seen < self._memory:
            return None
        noise = math.sqrt(self._variance * weight / (2 - weight))  # of an exponential average
        if self._smoothed < self._lowest - max(SMALLEST_GAIN, noise):
            self._lowest, self._num_waited = self._smoothed, 0
            message = f"The smoothed loss is lower again: {self._smoothed:.3f}."
            return Finding(False, message, self._smoothed)
        self._num_waited += 1
        if self._num_waited < self._steps:
            return None
        return Finding(
            True,
            f"The smoothed loss of {self._place.stage} has not got lower than {self._lowest:.3f} "
            f"for {self._num_waited:,} steps. More of this text may teach the model nothing new.",
            float(self._num_waited),
            float(self._steps),
        )
