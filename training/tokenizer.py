"""A byte-level BPE tokenizer trained on the run's own text, in files that transformers loads."""

from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from stentor.runs import write_json
from training.settings import WINDOW_TOKENS

END_TOKEN = "<|end|>"
END_TOKEN_ID = 0


def train_tokenizer(
    documents: Iterator[str], vocab_size: int, max_characters: int, folder: Path
) -> Tokenizer:
    """Train on the first `max_characters`, write tokenizer.json and its config to `folder`."""
    tokenizer = Tokenizer(models.BPE())
    # Digits one by one, so that sums are made of the same ten tokens everywhere.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_first(documents, max_characters), trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_TOKEN,
        "model_max_length": WINDOW_TOKENS,
        "clean_up_tokenization_spaces": False,
    }
    write_json(folder / "tokenizer_config.json", config)
    return tokenizer


def _first(documents: Iterator[str], max_characters: int) -> Iterator[str]:
    seen = 0
    for document in documents:
        yield document
        seen += len(document)
        if seen >= max_characters:
            return
