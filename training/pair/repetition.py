"""How often a model repeats itself: the playground's prompts through the playground's own engine.

A continuation repeats itself where the same four words in a row, in small letters, come twice in
it. Knows no run.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stentor.engine.engine import GenerationRequest
from stentor.engine.sampling import SamplingSettings
from stentor.engine.stream import StopReason, Stream
from stentor.errors import ModelError
from stentor.evaluation_store import EvaluationSettings
from stentor.evaluation_work import sampling_for
from stentor.knobs import from_json, to_json
from stentor.models import PAIRS
from stentor.prompts import Prompt, find_category
from stentor.scorers import WORD, distinct_share
from stentor.store import LoadedModel, ModelStore, prepare_prompt

START = PAIRS["demo"].sampling  # what the page begins with for the embedded pair


@dataclass(frozen=True)
class Variant:
    """What prompts are continued with: `changes` of their category's settings, or of the page's.

    The page's length is the same for every prompt; that of a category may be too short to repeat.
    """

    of_category: bool
    changes: Mapping[str, float]


# By their names in a manifest: each with and without the penalty, for that is what it is for.
VARIANTS = {
    "category": Variant(True, {}),
    "category, penalty": Variant(True, {"repetition_penalty": START["repetition_penalty"]}),
    "start without penalty": Variant(False, {"temperature": START["temperature"]}),
    "start": Variant(False, START),
}
PHRASE_WORDS = 4
SEED = 0
SESSION = "pair"


def repeats_itself(text: str) -> bool:
    """Tell whether any four words in a row come twice in a text."""
    return distinct_share(WORD.findall(text.lower()), PHRASE_WORDS) < 1.0


def repetition_shares(
    store: ModelStore, folder: Path, prompts: tuple[Prompt, ...]
) -> dict[str, float]:
    """Return the share of continuations that repeat themselves, by the name of the variant.

    Raises:
        ModelError: the model cannot be loaded, or it failed at a prompt.
        PromptError: a prompt does not fit into its context.
    """
    loaded = store.load(str(folder))
    return {name: _share(loaded, prompts, variant) for name, variant in VARIANTS.items()}


def repetition_settings() -> dict[str, Any]:
    """Return, as JSON values, what the shares of every variant are of.

    A variant's values replace those of the settings that it names.
    """
    variants = {
        name: {"settings_of": "category" if variant.of_category else "page", **variant.changes}
        for name, variant in VARIANTS.items()
    }
    page = {**to_json(SamplingSettings()), "seed": SEED}
    return {"phrase_words": PHRASE_WORDS, "seed": SEED, "page": page, "variants": variants}


def _share(loaded: LoadedModel, prompts: tuple[Prompt, ...], variant: Variant) -> float:
    num_repeating = 0
    # No more at a time than are decoded together: a session may not have too many waiting.
    for first in range(0, len(prompts), loaded.engine.num_slots):
        group = prompts[first : first + loaded.engine.num_slots]
        streams = [_submit(loaded, prompt, variant) for prompt in group]
        num_repeating += sum(map(repeats_itself, _texts(streams)))
    return num_repeating / len(prompts)


def _submit(loaded: LoadedModel, prompt: Prompt, variant: Variant) -> Stream:
    token_ids = prepare_prompt(loaded, prompt.text).token_ids
    return loaded.engine.submit(GenerationRequest(token_ids, sampling_of(variant, prompt), SESSION))


def sampling_of(variant: Variant, prompt: Prompt) -> SamplingSettings:
    """Return what a prompt is continued with."""
    usual = SamplingSettings()
    if variant.of_category:
        usual = sampling_for(find_category(prompt.category), EvaluationSettings())
    return from_json(SamplingSettings, {**to_json(usual), "seed": SEED, **variant.changes})


def _texts(streams: Iterable[Stream]) -> Iterator[str]:
    """Yield what each stream ends with."""
    for stream in streams:
        stream.wait()
        snapshot = stream.snapshot()
        if snapshot.stop_reason in (StopReason.FAILED, StopReason.STOPPED):
            raise ModelError(f"The model failed at a prompt: {snapshot.error or 'it was closed'}")
        yield snapshot.text
