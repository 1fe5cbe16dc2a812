"""The card of a trained model: recipe, data, licences, figures, limits, in Markdown.

Every number comes from the run's folder. Names and texts in it are somebody's words: each is put
on one line, and nothing of it can end a table cell or the front matter.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from stentor.loading import Checkpoint
from stentor.models import MODELS
from training.hand_over.story import RunStory, StageStory
from training.recipe import sources_of
from training.settings import OPTIMIZER_NAMES, PretrainSettings, Source

# Tokens per parameter at which a model of a given compute is best (arXiv 2203.15556).
TOKENS_PER_PARAMETER = 20
MAX_SAMPLES = 4
MAX_SAMPLE_CHARACTERS = 600
NOT_STATED = "not stated by whoever trained it"
GENERATED = "made by the playground itself"


def write_card(story: RunStory, checkpoint: Checkpoint, name: str, licence: str) -> str:
    """Return the card of a checkpoint; `licence`: of the weights, as the Hub names licences."""
    parts = [
        _front_matter(story, licence),
        f"# {line(name)}",
        _introduction(story, checkpoint),
        _facts(story, checkpoint),
        "## How it was made",
        _stages(story),
        "## Data",
        _data(story),
        "## Figures",
        _figures(story),
        *_samples(story),
        "## Limits",
        _limits(story, checkpoint),
        "## Use",
        _use(),
    ]
    return "\n\n".join(parts) + "\n"


def line(text: object) -> str:
    """Return somebody's text on one line that cannot end a cell, a tag or the front matter."""
    flat = " ".join(str(text).split())
    for character in "\\`*_{}[]<>|#":
        flat = flat.replace(character, f"\\{character}")
    return flat


def table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    """Return a Markdown table; cells are somebody's text."""
    cells = ["| " + " | ".join(line(cell) for cell in row) + " |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", f"|{'-|' * len(head)}", *cells])


def _front_matter(story: RunStory, licence: str) -> str:
    start = MODELS.get(story.recipe.start or "")
    lines = ["---", "language: en", f"license: {licence}"]
    if start and start.hub_id:
        lines.append(f"base_model: {start.hub_id}")
    return "\n".join([*lines, "library_name: transformers", "pipeline_tag: text-generation", "---"])


def _introduction(story: RunStory, checkpoint: Checkpoint) -> str:
    grown = any(stage.growth for stage in story.stages.values())
    start = f"{'grown from' if grown else 'trained from'} `{line(story.recipe.start)}`"
    how = start if story.recipe.start else "trained from random weights"
    kind = "" if story.state == "finished" else f" The run is {line(story.state)}, not finished."
    return (
        f"An English base language model of {checkpoint.num_parameters:,} parameters, {how} with "
        "the Stentor playground. It continues text; it was not taught to answer or to refuse."
        f"{kind}"
    )


def _facts(story: RunStory, checkpoint: Checkpoint) -> str:
    shape = checkpoint.shape
    rows = [
        ("run", f"{story.run.id}, checkpoint {story.checkpoint}"),
        ("recipe", f"{story.recipe.name}, seed {story.recipe.seed} (recipe.json beside this card)"),
        (
            "shape",
            f"width {shape.hidden_size}, {shape.num_layers} layers, {shape.num_heads} heads of "
            f"{shape.head_dim}, SwiGLU {shape.intermediate_size:,}",
        ),
        ("vocabulary and context", f"{shape.vocab_size:,} and {shape.context_length:,} tokens"),
        ("starts from", _start(story)),
        ("training tokens", f"{story.tokens:,}"),
        ("trained on", "; ".join(story.machines) or "not known"),
        ("went on after a stop or a kill", f"{story.resumes} time(s)"),
    ]
    return table(("", ""), rows)


def _start(story: RunStory) -> str:
    if story.recipe.start is None:
        return "random weights"
    licence = story.start_licence or "not stated"
    return f"{story.recipe.start}; licence on its card: {licence}"


def _stages(story: RunStory) -> str:
    rows = [(s.stage.title, s.stage.kind, _how(s)) for s in story.stages.values()]
    return table(("stage", "kind", "how"), rows)


def _how(story: StageStory) -> str:
    settings = story.stage.settings
    if isinstance(settings, PretrainSettings):
        return (
            f"{story.steps:,} of {settings.total_steps():,} steps of {settings.batch_size} x 512 "
            f"tokens; {OPTIMIZER_NAMES[settings.optimizer]}, learning rate "
            f"{settings.describe_schedule()}, weight decay {settings.weight_decay:g}, "
            f"clip {settings.clip_norm:g}; "
            f"{story.facts.get('precision', settings.precision)}"
        )
    shape = f"to width {settings.hidden_size}, {settings.num_layers} layers"
    if not story.growth:
        return shape
    return (
        f"{shape}; {story.growth.get('width')} and {story.growth.get('depth')}; largest change of "
        f"a logit {number(story.growth.get('max_logit_difference'))}"
    )


def _data(story: RunStory) -> str:
    rows = []
    for told in story.stages.values():
        sources = sources_of(story.recipe, told.stage)
        total = sum(source.weight for source in sources) or 1.0
        epochs = f"{told.epochs:.2f}" if told.epochs else "-"
        rows += [
            (
                told.stage.name,
                _describe(source),
                f"{source.weight / total:.0%}",
                epochs,
                licence_of(source),
            )
            for source in sources
        ]
    head = ("stage", "text", "share of its tokens", "times read", "licence")
    return table(head, rows)


def _describe(source: Source) -> str:
    revision = f", revision {source.revision}" if source.revision else ""
    return source.describe() + revision


def licence_of(source: Source) -> str:
    """Return the licence of a text as far as it is known."""
    return source.licence or (GENERATED if source.kind == "generated" else NOT_STATED)


def _figures(story: RunStory) -> str:
    rows = []
    for told in story.stages.values():
        if isinstance(told.stage.settings, PretrainSettings):
            parts = told.by_source if len(told.by_source) > 1 else {}
            each = ", ".join(f"{name} {number(loss)}" for name, loss in parts.items())
            rows.append(
                (
                    told.stage.name,
                    number(told.last_loss),
                    number(told.first_validation),
                    number(told.last_validation),
                    each or "-",
                )
            )
    head = ("stage", "last training loss", "held-out before", "held-out after", "by text")
    return f"Losses in nats per token.\n\n{table(head, rows)}"


def number(value: object) -> str:
    """Return a measured number in a few digits; what is no number is said."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "infinite"
    return f"{value:.4g}"


def _samples(story: RunStory) -> list[str]:
    if not story.samples:
        return []
    texts = [_quoted(sample) for sample in story.samples[-MAX_SAMPLES:]]
    return ["## Samples", "Not chosen: the fixed prompts of the run, with its fixed seeds.", *texts]


def _quoted(sample: Mapping[str, Any]) -> str:
    text = str(sample.get("text"))[:MAX_SAMPLE_CHARACTERS]
    return f"> **{line(sample.get('prompt'))}** {line(text)}"


def _limits(story: RunStory, checkpoint: Checkpoint) -> str:
    share = story.tokens / checkpoint.num_parameters
    lines = [
        "A base model: no instructions, no dialogue, no filter. It invents facts, and repeats what "
        "its text contained, good or bad.",
        "English only; what it knows ends with its text.",
        f"This run trained it on {share:.3g} tokens per parameter; {TOKENS_PER_PARAMETER} is where "
        "a model of its compute is best (arXiv 2203.15556)."
        + (" More training would help." if share < TOKENS_PER_PARAMETER else ""),
        *(line(f"The run warned: {warning}") for warning in story.warnings),
    ]
    return "\n".join(f"- {text}" for text in lines)


def _use() -> str:
    return """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForCausalLM.from_pretrained(".")
inputs = tokenizer("One morning the", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40, do_sample=True)[0]))
```"""
