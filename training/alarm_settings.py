"""When a run raises an alarm: every threshold with its reason. Standard library only."""

from dataclasses import dataclass

from stentor.knobs import knob


@dataclass(frozen=True)
class AlarmSettings:
    """Thresholds of the alarms; how each is judged is in training/alarms/."""

    spike_deviations: float = knob(
        8.0,
        low=1.0,
        high=1_000.0,
        step=0.5,
        help="A loss this many robust deviations above the recent ones is a spike; batches of one "
        "text differ by 2 to 4",
    )
    plateau_steps: int = knob(
        2_000,
        low=0,
        high=10_000_000,
        step=100,
        help="Steps without a lower smoothed loss that make a plateau; 0: never",
    )
    stall_factor: float = knob(
        10.0,
        low=2.0,
        high=10_000.0,
        step=1.0,
        help="No step for this many times the median step is a stall",
    )
    stall_seconds: float = knob(
        60.0,
        low=1.0,
        high=86_400.0,
        step=10.0,
        help="A shorter silence is no stall, however short the steps: checkpoints take a while",
    )
    throughput_share: float = knob(
        0.6,
        low=0.0,
        high=1.0,
        step=0.05,
        help="Tokens per second below this share of the stage's best median: another program, or a "
        "slow disk",
    )
    throughput_seconds: float = knob(
        60.0,
        low=0.0,
        high=86_400.0,
        step=10.0,
        help="Training time of which the median speed is taken: a shorter dip is no trend",
    )
    gpu_temperature: float = knob(
        87.0,
        low=40.0,
        high=120.0,
        step=1.0,
        help="Degrees Celsius at which a GPU counts as hot; an RTX 4090 slows itself at 90",
    )
    disk_free_gigabytes: float = knob(
        5.0,
        low=0.0,
        high=100_000.0,
        step=1.0,
        help="Less than this free on the run's disk is low; so is less than two more checkpoints",
    )
