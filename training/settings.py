"""What a stage can be told: its source of text, its shape or its training. Frozen dataclasses.

Every option is declared here once (see stentor/knobs.py). Standard library only.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from stentor.knobs import knob

# Windows hold this many tokens, the last of them end-of-sequence: the context of both real models.
WINDOW_TOKENS = 512
MAX_NAMES = 4  # of files, in the description of a source
SOURCE_KINDS = ("generated", "files", "hub", "replay")
# By the name of the option, for people.
OPTIMIZER_NAMES = {"adamw": "AdamW", "muon": "Muon and AdamW"}


@dataclass(frozen=True)
class Source:
    """Where text comes from, and its share of a stage's tokens.

    `name`: a flavour of generated text, a Hub dataset, or for `replay` an earlier stage, whose own
    text is read again. Shares are weights: 75 and 25 mean what 3 and 1 mean.
    """

    kind: str = knob("generated", choices=SOURCE_KINDS, help="Where the text comes from")
    name: str = "general"
    subset: str | None = None
    revision: str | None = None
    column: str = "text"
    paths: tuple[str, ...] = ()
    licence: str = ""  # of the text, as a model card names it; the card of a run repeats it
    weight: float = knob(1.0, low=0.001, high=1e6, step=1.0, help="Share of the stage's tokens")

    def identity(self) -> dict[str, Any]:
        """Return what decides the text: all but its licence."""
        return {name: value for name, value in asdict(self).items() if name != "licence"}

    def describe(self) -> str:
        """Return the source in a few words."""
        if self.kind == "files":
            names = [path.rstrip("/").rsplit("/", 1)[-1] for path in self.paths]
            if len(names) > MAX_NAMES:
                names[MAX_NAMES:] = [f"{len(names) - MAX_NAMES:,} more"]
            return ", ".join(names) or "your own files"
        if self.kind == "replay":
            return f"the text of stage {self.name} again"
        subset = f" ({self.subset})" if self.subset else ""
        return f"{self.name}{subset}" if self.kind == "hub" else f"generated text, {self.name}"


def describe_sources(sources: tuple[Source, ...]) -> str:
    """Return the texts of a mixture, with their shares where these differ."""
    total = sum(source.weight for source in sources)
    if len({source.weight for source in sources}) < 2:
        return "; ".join(source.describe() for source in sources)
    return "; ".join(f"{100 * s.weight / total:.3g}% {s.describe()}" for s in sources)


@dataclass(frozen=True)
class CreateSettings:
    """A new model: a tokenizer trained on the source, and random weights of this shape."""

    vocab_size: int = knob(4096, low=300, high=65_536, step=1, help="Tokens of the new tokenizer")
    hidden_size: int = knob(128, low=16, high=8192, step=1, help="Width of the residual stream")
    intermediate_size: int = knob(512, low=16, high=32_768, step=1, help="Width of the SwiGLU")
    num_layers: int = knob(7, low=1, high=200, step=1, help="Transformer blocks")
    num_heads: int = knob(2, low=1, high=128, step=1, help="Attention heads")
    sources: tuple[Source, ...] = (Source(),)
    max_characters: int = knob(
        30_000_000, low=1_000, high=10_000_000_000, step=1, help="Text the tokenizer is trained on"
    )


@dataclass(frozen=True)
class ExpandSettings:
    """A larger shape and how to reach it; sizes are those of the grown model."""

    width: str = knob(
        "zero_pad",
        choices=("zero_pad", "clone", "slice_rescaled", "slice", "scratch"),
        help="How the layers get wider",
    )
    symmetry_break: str = knob(
        "noise",
        choices=("none", "noise", "uneven"),
        help="How the halves of a clone are told apart; other widths have no halves",
    )
    depth: str = knob(
        "identity_interleave",
        choices=(
            "identity_interleave",
            "identity_back",
            "copy_block_back",
            "copy_interleave",
            "random_top",
        ),
        help="How layers are added",
    )
    hidden_size: int = knob(512, low=16, high=8192, step=1, help="Width of the residual stream")
    intermediate_size: int = knob(2048, low=16, high=32_768, step=1, help="Width of the SwiGLU")
    num_layers: int = knob(30, low=1, high=200, step=1, help="Transformer blocks")
    num_heads: int = knob(8, low=1, high=128, step=1, help="Attention heads")
    vocab_size: int | None = knob(
        None, low=1, high=1_000_000, step=1, help="Rows of the embedding; nothing: as many as now"
    )


@dataclass(frozen=True)
class PretrainSettings:
    """One pre-training stage. A mixture takes windows of each source by its weight."""

    sources: tuple[Source, ...] = (Source(),)
    budget: str = knob("steps", choices=("steps", "tokens"), help="Which of the two limits counts")
    num_steps: int = knob(24, low=1, high=10_000_000, step=1, help="Optimizer steps")
    num_tokens: int = knob(50_000, low=512, high=10**13, step=1, help="Training tokens")
    batch_size: int = knob(4, low=1, high=4096, step=1, help="Windows of 512 tokens per step")
    micro_batch_size: int = knob(
        4, low=1, high=4096, step=1, help="Windows per forward pass of one process"
    )
    optimizer: str = knob(
        "adamw",
        choices=tuple(OPTIMIZER_NAMES),
        help="AdamW, or Muon for the matrices of the layers and AdamW for the rest",
    )
    learning_rate: float = knob(2e-4, low=1e-8, high=1.0, step=1e-5, help="Peak learning rate")
    warmup_fraction: float = knob(0.05, low=0.0, high=1.0, step=0.01, help="Share of warm-up steps")
    schedule: str = knob(
        "cosine",
        choices=("cosine", "wsd"),
        help="After the warm-up: a cosine, or stable and a linear decay at the end (WSD)",
    )
    decay_fraction: float = knob(
        0.2, low=0.0, high=1.0, step=0.01, help="Share of steps that decay, of a WSD schedule"
    )
    final_fraction: float = knob(0.0, low=0.0, high=1.0, step=0.05, help="Last rate / peak rate")
    branch_fraction: float = knob(
        1.0,
        low=0.0,
        high=1.0,
        step=0.05,
        help="Share of steps after which the next stage branches off, as before a decay; 1: all",
    )
    carry_optimizer: bool = knob(
        False, help="Go on with the moments of the stage before, as one schedule over stages does"
    )
    max_epochs: float = knob(
        4.0, low=1.0, high=1e6, step=0.5, help="Most times that any text may be read"
    )
    validation_windows: int = knob(
        8, low=1, high=4096, step=1, help="Held-out windows of 512 tokens"
    )
    weight_decay: float = knob(0.01, low=0.0, high=1.0, step=0.01, help="Decoupled weight decay")
    clip_norm: float = knob(
        1.0, low=0.0, high=1000.0, step=0.1, help="Gradient norm limit; 0 is off"
    )
    validate_every: int = knob(8, low=1, high=1_000_000, step=1, help="Steps between validations")
    checkpoint_every: int = knob(8, low=1, high=1_000_000, step=1, help="Steps between checkpoints")
    keep_last: int = knob(2, low=1, high=1000, step=1, help="Newest checkpoints of a stage kept")
    keep_best: bool = knob(True, help="Keep the checkpoint of the lowest validation loss as well")
    precision: str = knob(
        "auto",
        choices=("auto", "fp32", "bf16"),
        help="Of the products; auto: bf16 on a GPU, fp32 on a CPU. Weights stay fp32",
    )
    gradient_checkpointing: bool = knob(False, help="Less memory, about a quarter slower")
    torch_compile: bool = knob(
        False, help="Compile the model first: faster on a GPU, needs a C++ compiler, a minute"
    )

    def describe_schedule(self) -> str:
        """Return the learning rate over the stage's steps in a few words."""
        warmup = f"warm-up {self.warmup_fraction:.0%}, " if self.warmup_fraction else ""
        if self.schedule == "cosine":
            course = f"cosine to {self.final_fraction:.0%}"
        elif not self.decay_fraction:
            course = "then stable"
        else:
            course = (
                f"stable, the last {self.decay_fraction:.0%} of steps down to "
                f"{self.final_fraction:.0%}"
            )
        branch = f"; the next stage branches off at {self.branch_fraction:.0%}"
        ending = branch if self.branch_fraction < 1 else ""
        return f"{self.learning_rate:g}, {warmup}{course}{ending}"

    def branch_step(self) -> int:
        """Return the step whose weights the next stage goes on from."""
        return max(1, round(self.branch_fraction * self.total_steps()))

    def total_steps(self) -> int:
        """Return the optimizer steps that the chosen budget means."""
        if self.budget == "steps":
            return self.num_steps
        return max(1, math.ceil(self.num_tokens / self.tokens_per_step()))

    def tokens_per_step(self) -> int:
        """Return the tokens of one optimizer step."""
        return self.batch_size * WINDOW_TOKENS

    def total_tokens(self) -> int:
        """Return the tokens that the steps really see, rounded up to whole steps."""
        return self.total_steps() * self.tokens_per_step()


StageSettings = CreateSettings | ExpandSettings | PretrainSettings
SETTINGS: dict[str, type[CreateSettings] | type[ExpandSettings] | type[PretrainSettings]] = {
    "create": CreateSettings,
    "expand": ExpandSettings,
    "pretrain": PretrainSettings,
}
