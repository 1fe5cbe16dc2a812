"""What a comparison can be told, its two presets, and how a strategy is named. No torch here.

A strategy is `continued` (the small model, simply trained on), `scratch` (the large shape, all
random) or `WIDTH+DEPTH`, where a clone also says how its halves are told apart:
`zero_pad+identity_interleave`, `clone:none+identity_back`.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from stentor.errors import OptionError
from stentor.knobs import choose, knob, knobs
from training.settings import ExpandSettings, PretrainSettings

CONTINUED = "continued"
SCRATCH = "scratch"
DEFAULT_STRATEGY = "zero_pad+identity_interleave"
CONTROLS = {
    CONTINUED: "small model continued",
    SCRATCH: "large model from scratch",
}
NOTES = {
    DEFAULT_STRATEGY: "the default",
    "slice+random_top": "as Stentor-Big was grown",
}
WIDTH_WORDS = {
    "zero_pad": "zero-padded",
    "slice": "sliced",
    "slice_rescaled": "sliced and rescaled",
    "clone:none": "cloned exactly",
    "clone:noise": "cloned with noise",
    "clone:uneven": "cloned unevenly",
}
DEPTH_WORDS = {
    "identity_interleave": "silent layers between",
    "identity_back": "silent layers near the end",
    "copy_block_back": "block of layers copied",
    "copy_interleave": "copied layers between",
    "random_top": "random layers on top",
}


@dataclass(frozen=True)
class Preset:
    """What a comparison of about this many minutes holds."""

    minutes: float
    strategies: tuple[str, ...]
    num_seeds: int
    rate_factors: tuple[float, ...]


PRESETS = {
    "minutes": Preset(
        5.0,
        (
            CONTINUED,
            SCRATCH,
            DEFAULT_STRATEGY,
            "slice+random_top",
            "clone:none+identity_interleave",
        ),
        1,
        (1.0,),
    ),
    "hour": Preset(
        60.0,
        (
            CONTINUED,
            SCRATCH,
            DEFAULT_STRATEGY,
            "slice+random_top",
            "slice_rescaled+random_top",
            "clone:noise+identity_interleave",
            "clone:none+identity_interleave",
            "zero_pad+copy_block_back",
        ),
        3,
        (1.0, 0.5),
    ),
}


def _as_in(settings: type, name: str, default: Any, words: str = "") -> Any:  # noqa: ANN401
    """Return a field with the range of another settings class's option and its own default."""
    option = knobs(settings)[name]
    changed = dataclasses.replace(option, help=f"{option.help}{words}")
    return dataclasses.field(default=default, metadata={"knob": changed})


@dataclass(frozen=True)
class ComparisonOptions:
    """One comparison. None: what the preset says, or what follows from the small model."""

    model: str = "demo-base"
    text: tuple[str, ...] = ()
    strategies: tuple[str, ...] = ()
    rate_factors: tuple[float, ...] = ()
    preset: str = knob("minutes", choices=tuple(PRESETS), help="How much is compared")
    minutes: float | None = knob(
        None, low=0.05, high=100_000, step=1.0, help="Time that the steps are chosen for"
    )
    seeds: int | None = knob(
        None, low=1, high=100, step=1, help="Seeds of batches and new weights; two give a verdict"
    )
    steps: int | None = knob(
        None, low=1, high=1_000_000, step=1, help="Steps of every run, whatever time they take"
    )
    batch_size: int = _as_in(PretrainSettings, "batch_size", 4)
    learning_rate: float = _as_in(
        PretrainSettings, "learning_rate", 1e-3, "; a clone takes its own share of it"
    )
    optimizer: str = _as_in(PretrainSettings, "optimizer", "adamw")
    precision: str = _as_in(PretrainSettings, "precision", "auto")
    validation_windows: int = _as_in(PretrainSettings, "validation_windows", 16)
    max_epochs: float = _as_in(PretrainSettings, "max_epochs", 4.0, " by one run")
    hidden_size: int | None = _as_in(ExpandSettings, "hidden_size", None, "; nothing: doubled")
    intermediate_size: int | None = _as_in(
        ExpandSettings, "intermediate_size", None, "; nothing: doubled"
    )
    num_layers: int | None = _as_in(
        ExpandSettings, "num_layers", None, "; nothing: ten for every seven"
    )
    num_heads: int | None = _as_in(ExpandSettings, "num_heads", None, "; nothing: doubled")
    source_tokens: int | None = knob(
        None, low=0, high=10**15, step=1, help="Tokens the small model was trained on, if known"
    )
    threads: int | None = knob(
        None, low=1, high=1024, step=1, help="Threads to compute with; nothing: all cores"
    )


def growth_of(strategy: str) -> dict[str, str] | None:
    """Return width, depth and symmetry break of a strategy as ExpandSettings names them.

    None for the continued small model, which does not grow.

    Raises:
        OptionError: there is no such strategy; the message lists the parts there are.
    """
    if strategy == CONTINUED:
        return None
    if strategy == SCRATCH:
        return {"width": "scratch", "depth": "random_top"}
    wide, plus, depth = strategy.partition("+")
    if not plus:
        raise OptionError(
            f"A strategy is {', '.join(CONTROLS)} or WIDTH+DEPTH such as {DEFAULT_STRATEGY}; got "
            f"{strategy!r:.80}."
        )
    choose(WIDTH_WORDS, wide, "width strategy")
    choose(DEPTH_WORDS, depth, "depth strategy")
    width, colon, symmetry_break = wide.partition(":")
    parts = {"width": width, "depth": depth}
    return {**parts, "symmetry_break": symmetry_break} if colon else parts


def in_words(strategy: str) -> str:
    """Return a strategy's name for people."""
    if strategy in CONTROLS:
        return CONTROLS[strategy]
    width, _, depth = strategy.partition("+")
    return f"{WIDTH_WORDS[width]} + {DEPTH_WORDS[depth]}"


def note_on(strategy: str) -> str:
    """Return what else a reader should know of a strategy, in brackets, or nothing."""
    return f" ({NOTES[strategy]})" if strategy in NOTES else ""


def is_clone(strategy: str) -> bool:
    """Tell whether a strategy makes copies that have to grow apart."""
    return strategy.startswith("clone:")
