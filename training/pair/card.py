"""The two model cards of a packed pair, in plain Markdown: every number was measured.

Words about what such small models can do are the same for every pair; figures are the pair's own.
Of a named recipe the card is that of the embedded pair, with its place and its licence.
"""

from collections.abc import Mapping
from typing import Any

from stentor.engine.sampling import SamplingSettings
from stentor.loading import Checkpoint
from stentor.prompts import ALL, categories, prompts_of
from training.hand_over.model_card import licence_of, line, number, table
from training.pair.manifest import PairFigures, is_named, rebuild_command, without_folders
from training.pair.measure import text_sources
from training.pair.origin import Origin
from training.pair.repetition import SEED, START, VARIANTS
from training.recipe import Recipe, Stage
from training.settings import (
    OPTIMIZER_NAMES,
    WINDOW_TOKENS,
    CreateSettings,
    ExpandSettings,
    PretrainSettings,
    describe_sources,
)
from training.tokenise import HELD_OUT_SHARE

LICENCE = "cc-by-sa-4.0"  # of the share-alike works among the text
REAL_MODELS = {"base": "Stentor-30M", "big": "Stentor-Big"}


def write_card(
    model: Checkpoint, name: str, stage: Stage, figures: PairFigures, origin: Origin
) -> str:
    """Return the card of the packed model `name`, whose weights are the end of `stage`."""
    parts = [
        _front_matter(origin.recipe),
        f"# Stentor {name.replace('-', ' ')}",
        _introduction(name, origin.recipe),
        _shape(model, stage, figures, origin),
        "## How it was trained",
        _training(stage, origin),
        "## Held-out text",
        _held_out(stage, figures, origin.recipe),
        "## Repetition",
        _repetition(figures),
        "## What it can and cannot do",
        _limits(name, model, figures),
        "## Data and licence",
        _data(origin.recipe),
        "## Making it again",
        f"`{rebuild_command(origin.recipe)}` (run {line(origin.run)}; `../manifest.json` has the "
        "recipe, the versions and the hash of every file).",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(recipe: Recipe) -> str:
    licence = LICENCE if is_named(recipe) else "other"
    return (
        f"---\nlanguage: en\nlicense: {licence}\nlibrary_name: transformers\n"
        "pipeline_tag: text-generation\n---"
    )


def _introduction(name: str, recipe: Recipe) -> str:
    kind = name.rpartition("-")[2]
    grown = ", grown out of the demo base by the playground's own trainer" if kind == "big" else ""
    text = f"A very small English base language model{grown}"
    if not is_named(recipe):
        return f"{text}, packed with its pair by the recipe {line(recipe.name)}."
    return (
        f"{text}, made so that the Stentor playground works offline. It stands in for "
        f"{REAL_MODELS[kind]}; it is not that model and was not made by its author."
    )


def _shape(model: Checkpoint, stage: Stage, figures: PairFigures, origin: Origin) -> str:
    shape = model.shape
    tokens = next(item.tokens for item in figures.checkpoints if item.stage == stage.name)
    rows = [
        ("parameters", f"{model.num_parameters:,} ({'tied' if shape.is_tied else 'own'} output)"),
        (
            "shape",
            f"width {shape.hidden_size}, {shape.num_layers} layers, {shape.num_heads} heads of "
            f"{shape.head_dim}, SwiGLU {shape.intermediate_size:,}",
        ),
        ("vocabulary and context", f"{shape.vocab_size:,} and {shape.context_length:,} tokens"),
        ("tokens trained on, in all", f"{tokens:,}"),
        ("numbers", "stored in fp16"),
        ("trained on", origin.machine),
    ]
    return table(("", ""), rows)


def _training(stage: Stage, origin: Origin) -> str:
    """Return the stages that led to the model."""
    recipe = without_folders(origin.recipe)
    until = [item.name for item in recipe.stages].index(stage.name) + 1
    start = "" if recipe.start is None else f"Starts from {line(recipe.start)}.\n\n"
    rows = [(item.name, _how(item, origin.growths)) for item in recipe.stages[:until]]
    notes = "".join(f"\n\n{line(note)}" for note in recipe.notes)
    return start + table(("stage", "how"), rows) + notes


def _how(stage: Stage, growths: Mapping[str, Mapping[str, Any]]) -> str:
    settings = stage.settings
    if isinstance(settings, PretrainSettings):
        return (
            f"{settings.total_tokens():,} tokens in {settings.total_steps():,} steps of "
            f"{settings.batch_size} windows of {WINDOW_TOKENS}; "
            f"{OPTIMIZER_NAMES[settings.optimizer]}, learning rate {settings.describe_schedule()}, "
            f"weight decay {settings.weight_decay:g}; text: {describe_sources(settings.sources)}"
        )
    if isinstance(settings, CreateSettings):
        return (
            f"random weights, and a byte-level BPE tokenizer of {settings.vocab_size:,} tokens "
            f"trained on {describe_sources(settings.sources)}"
        )
    assert isinstance(settings, ExpandSettings)
    how = f"{settings.width} in width, {settings.depth} in depth"
    growth = growths.get(stage.name)
    if growth is None:  # its report is lost
        return how
    return (
        f"{how}: from {growth.get('parameters_before'):,} to {growth.get('parameters_after'):,} "
        f"parameters; largest change of a logit {number(growth.get('max_logit_difference'))} of "
        f"{number(growth.get('max_logit'))}"
    )


def _held_out(stage: Stage, figures: PairFigures, recipe: Recipe) -> str:
    own = next(item.name for item in figures.checkpoints if item.stage == stage.name)
    names = list(figures.held_out)
    rows = [
        (
            item.name,
            f"{item.parameters:,}",
            f"{item.tokens:,}",
            *(_two(item.texts[name].bits_per_byte, item.texts[name].loss) for name in names),
        )
        for item in figures.checkpoints
    ]
    amounts = ", ".join(
        f"{line(name)} {len(text.windows)} windows of {text.num_documents} documents"
        for name, text in figures.held_out.items()
    )
    head = ("checkpoint", "parameters", "tokens", *map(line, names))
    return (
        f"Bits per byte (nats per token) on documents that no stage trained on: {amounts}. They "
        f"are about one in {HELD_OUT_SHARE}, chosen by a hash of their text; other parts of the "
        f"same works may have been trained on. This model is the row {line(own)}. The rounding to "
        f"fp16 is in the figures of both packed models.{_branch(recipe)}\n\n{table(head, rows)}"
    )


def _branch(recipe: Recipe) -> str:
    """Return, as a sentence, at which step the base was grown, if not at its end."""
    base = next(stage for stage in recipe.stages if stage.name == recipe.pair[0])
    if base.branch_step() == base.total_steps():
        return ""
    return (
        f" What was grown is not the row base but the same model at step {base.branch_step():,} of "
        f"{base.total_steps():,}, before its learning rate decayed."
    )


def _two(bits_per_byte: float, loss: float) -> str:
    return f"{bits_per_byte:.3f} ({loss:.3f})"


def _repetition(figures: PairFigures) -> str:
    rows = [
        (name, *(f"{shares[variant]:.0%}" for variant in VARIANTS))
        for name, shares in figures.repetition.items()
    ]
    usual = [category.temperature for category in categories().values()]
    lengths = [category.max_new_tokens for category in categories().values()]
    warm, penalty = START["temperature"], START["repetition_penalty"]
    head = (
        "model",
        "as the category",
        f"with repetition penalty {penalty:g}",
        "as the playground, without its penalty",
        f"with penalty {penalty:g}",
    )
    return (
        "The share of continuations in which the same four words in a row come twice: the "
        f"{len(prompts_of(ALL))} prompts of the playground, as their categories are set "
        f"(temperature {min(usual):g} to {max(usual):g}, {min(lengths)} to {max(lengths)} tokens) "
        f"and as the playground begins for the embedded pair (temperature {warm:g}, "
        f"{SamplingSettings().max_new_tokens} tokens); seed {SEED}, computed in "
        f"{figures.engine['precision']}.\n\n{table(head, rows)}"
    )


def _limits(name: str, model: Checkpoint, figures: PairFigures) -> str:
    big = _comparison(figures)
    lines = [
        "It continues English text in the manner of what it read, a few sentences at a time. It "
        "shows what a base model is, how sampling settings change a text, and how a grown model "
        "compares with the one it grew out of.",
        *([big] if name.endswith("big") else []),
        "It knows no facts to rely on: names, dates and numbers in its text are mostly invented.",
        "It cannot calculate, write programs that work, follow an instruction or keep to a subject "
        f"for long, and it sees at most {model.shape.context_length:,} tokens.",
        "It was not taught to answer or to refuse. It repeats the manners, the prejudices and the "
        "errors of its sources.",
        "For looking inside and for learning, not for use.",
    ]
    return "\n".join(f"- {text}" for text in lines)


def _comparison(figures: PairFigures) -> str:
    """Return the last checkpoint against the base, in bits per byte."""
    base, last = figures.checkpoints[0], figures.checkpoints[-1]
    parts = []
    for name in figures.held_out:
        share = last.texts[name].bits_per_byte / base.texts[name].bits_per_byte
        parts.append(f"{line(name)} {abs(1 - share):.1%} {'fewer' if share <= 1 else 'more'}")
    return f"Bits per byte it needs for held-out text, against the base: {', '.join(parts)}."


def _data(recipe: Recipe) -> str:
    if is_named(recipe):
        return (
            "The text of the embedded pair is openly licensed; every work is listed with its "
            "licence in `../SOURCES.md`, and the share-alike ones are why the weights are CC BY-SA "
            "4.0. A pair packed from other text needs a list of its own, and perhaps another "
            "licence."
        )
    sources = text_sources(without_folders(recipe)).items()
    return table(("text", "licence"), [(name, licence_of(source)) for name, source in sources])
