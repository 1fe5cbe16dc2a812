"""Loops are counted as a reader would see them, in texts that the playground itself would write."""

from dataclasses import replace
from pathlib import Path

from stentor.engine.engine import GenerationRequest
from stentor.engine.sampling import SamplingSettings
from stentor.evaluation_store import EvaluationSettings
from stentor.evaluation_work import sampling_for
from stentor.prompts import find_category, prompts_of
from stentor.store import ModelStore, prepare_prompt
from training.pair.repetition import repeats_itself, repetition_shares


def test_four_words_in_a_row_that_come_twice_are_a_repetition() -> None:
    assert repeats_itself("The river is wide; and THE RIVER, is wide!")
    assert repeats_itself("no no no no no")
    assert not repeats_itself("The river is wide and the river is deep.")
    assert not repeats_itself("no no no no")
    assert not repeats_itself("")


def test_shares_are_of_what_the_playground_writes(tiny_model_folder: Path) -> None:
    """The figures of the page once had the lengths of the categories, 16 tokens of some of them."""
    prompts = prompts_of("science")
    usual = sampling_for(find_category("science"), EvaluationSettings(seed=0))
    settings = {
        "category": usual,
        "category, penalty": replace(usual, repetition_penalty=1.15),
        "start without penalty": SamplingSettings(temperature=0.8),
        "start": SamplingSettings(temperature=0.8, repetition_penalty=1.15),
    }
    with ModelStore(1) as store:
        shares = repetition_shares(store, tiny_model_folder, prompts)
        assert repetition_shares(store, tiny_model_folder, prompts) == shares
        loaded = store.load(str(tiny_model_folder))
        for name, own in settings.items():
            texts = []
            for prompt in prompts:
                token_ids = prepare_prompt(loaded, prompt.text).token_ids
                stream = loaded.engine.submit(GenerationRequest(token_ids, own, "a"))
                stream.wait()
                texts.append(stream.snapshot().text)
            assert shares[name] == sum(map(repeats_itself, texts)) / len(prompts)
