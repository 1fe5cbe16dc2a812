"""How well a model predicts texts, above all those that no stage trains on.

A document is held out by its text alone (training/tokenise.py), so these are the same documents for
every stage, run and model. Only of a text too short for that does a stage train on all documents
and hold windows out; such a text has nothing to be measured on here. Writes no file.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, count, islice

import torch
from tokenizers import Tokenizer
from torch import nn

from stentor.errors import DataError
from stentor.loading import Checkpoint
from training.checkpoint import load_model
from training.loop import validation_loss
from training.network import TrainingNetwork
from training.recipe import Recipe
from training.settings import WINDOW_TOKENS, ExpandSettings, Source
from training.sources import read_documents
from training.tokenise import HELD_OUT_SHARE, is_held_out

# Windows of each text that a pair is measured on: 131,000 tokens.
PAIR_WINDOWS = 256
# As many windows as a small batch of training holds; a larger one is not faster on a CPU.
BATCH_WINDOWS = 8
# Of the order in which files are read; all models are measured on the same windows.
SEED = 0


@dataclass(frozen=True)
class WindowedText:
    """A text, or a part of it, in windows.

    `windows`: (num_windows, 512) token ids, the last of each the end. `num_bytes`: in UTF-8 of the
    tokens that are predicted, all but the first of each window. `num_documents`: that the windows
    hold a part of.
    """

    windows: torch.Tensor
    num_bytes: int
    num_documents: int

    @property
    def num_predicted(self) -> int:
        """Return the predicted tokens: of each window the 510 after the first, and the end."""
        return len(self.windows) * (WINDOW_TOKENS - 1)


@dataclass(frozen=True)
class _Window:
    """512 tokens, the last of them the end. `documents`: the numbers of those it is cut from."""

    tokens: torch.Tensor
    num_bytes: int
    documents: range


@dataclass(frozen=True)
class TextLoss:
    """A model on a text: the mean in nats per predicted token, and the same sum in bits per byte.

    Bits per byte compare models of different tokenizers.
    """

    loss: float
    bits_per_byte: float


def cut_windows(
    documents: Iterable[str], tokenizer: Tokenizer, end_token: int, max_windows: int
) -> WindowedText:
    """Return the first windows of some documents in a row, each document with its end.

    Raises:
        DataError: there is less text than one window.
    """
    return _gathered(list(islice(_windows(documents, tokenizer, end_token), max_windows)))


def _windows(documents: Iterable[str], tokenizer: Tokenizer, end_token: int) -> Iterator[_Window]:
    stream = _tokens_with_bytes(documents, tokenizer, end_token)
    while True:
        part = list(islice(stream, WINDOW_TOKENS - 1))
        if len(part) < WINDOW_TOKENS - 1:
            return
        tokens = torch.tensor([*(token for token, _, _ in part), end_token])
        num_bytes = sum(size for _, size, _ in part[1:])  # the first is given, not predicted
        yield _Window(tokens, num_bytes, range(part[0][2], part[-1][2] + 1))


def _gathered(windows: list[_Window]) -> WindowedText:
    if not windows:
        raise DataError(f"The text is shorter than a window of {WINDOW_TOKENS} tokens. Give more.")
    return WindowedText(
        torch.stack([window.tokens for window in windows]),
        sum(window.num_bytes for window in windows),
        len({number for window in windows for number in window.documents}),
    )


def _tokens_with_bytes(
    documents: Iterable[str], tokenizer: Tokenizer, end_token: int
) -> Iterator[tuple[int, int, int]]:
    """Yield each token, the UTF-8 bytes it stands for, and the number of its document from 1.

    An end stands for no bytes; a character in several tokens counts in the first of them.
    """
    for number, document in enumerate(documents, start=1):
        encoding = tokenizer.encode(document, add_special_tokens=False)
        done = 0
        for token, (_, end) in zip(encoding.ids, encoding.offsets, strict=True):
            yield token, len(document[done:end].encode("utf-8")), number
            done = max(done, end)
        yield end_token, 0, number


def held_out_documents(sources: tuple[Source, ...]) -> Iterator[str]:
    """Yield the documents of some sources that no stage trains on.

    Raises:
        DataError: a file that cannot be read, or a source without any text.
    """
    return filter(is_held_out, read_documents(sources, SEED))


def held_out_windows(
    sources: tuple[Source, ...], tokenizer: Tokenizer, end_token: int, max_windows: int
) -> WindowedText:
    """Return windows of the documents that no stage trains on, evenly from the first to the last.

    So a few long documents, which may be easier or harder than the rest, do not decide it.

    Raises:
        DataError: a file that cannot be read, or there are too few such documents for a window.
    """
    try:
        windows = list(_windows(held_out_documents(sources), tokenizer, end_token))
        count = min(max_windows, len(windows))
        return _gathered([windows[place * len(windows) // count] for place in range(count)])
    except DataError as error:
        names = "; ".join(source.describe() for source in sources)
        raise DataError(f"Of the documents of {names} that are held out: {_mend(error)}") from error


def _mend(error: DataError) -> str:
    return (
        f"{error} About one document in {HELD_OUT_SHARE} is never trained on; a text of few "
        "documents has none."
    )


def text_sources(recipe: Recipe) -> dict[str, Source]:
    """Return the distinct texts of a recipe's own files, by a name for each.

    A source's own name, or where several texts have it, what its files are called.
    """
    found: list[Source] = []
    for stage in recipe.stages:
        if isinstance(stage.settings, ExpandSettings):
            continue
        for source in stage.settings.sources:
            text = (source.kind, source.paths, source.column)
            known = [(other.kind, other.paths, other.column) for other in found]
            if source.kind == "files" and text not in known:
                found.append(replace(source, weight=1.0))
    names = [source.name for source in found]
    labels: dict[str, Source] = {}
    for source in found:
        first = source.name if names.count(source.name) == 1 else source.describe()
        others = (f"{first} ({number})" for number in count(2))
        labels[next(label for label in chain([first], others) if label not in labels)] = source
    return labels


def check_held_out(recipe: Recipe) -> None:
    """Make sure, before a run starts, that a pair can be measured when it ends.

    Each text of the recipe must have held-out documents of a window at least, were every byte of
    them a token; whether they fill one is known when a stage prepares it (`check_apart`).

    Raises:
        DataError: the recipe reads no files, or one of its texts has too little to hold out.
    """
    sources = text_sources(recipe)
    if not sources:
        raise DataError(
            "The recipe packs a pair, whose figures are measured on text of your own, and reads "
            "none. Give text with --text STAGE=FILE or --corpora DIR, or take `pair` out of it."
        )
    for name, source in sources.items():
        num_bytes = 0
        for document in held_out_documents((source,)):
            num_bytes += len(document.encode("utf-8"))
            if num_bytes >= WINDOW_TOKENS:
                break
        else:
            raise DataError(
                f"The recipe packs a pair, and of its text {name} ({source.describe()}) only "
                f"{num_bytes:,} bytes are held out to measure it on: about one document in "
                f"{HELD_OUT_SHARE} is. Give more text, or take `pair` out of the recipe."
            )


def check_apart(stage: str, held_out_by: str) -> None:
    """Refuse to train or to pack a pair with documents that are held out elsewhere.

    Raises:
        DataError: the text of the stage was too short to keep whole documents apart.
    """
    if held_out_by != "documents":
        raise DataError(
            f"The text of stage {stage} is too short to hold whole documents out, so it was "
            "trained on what the pair would be measured on. Give more text in a new run, or one "
            "whose recipe has no `pair`."
        )


def measure_texts(
    checkpoint: Checkpoint, texts: dict[str, WindowedText], device: torch.device
) -> dict[str, TextLoss]:
    """Return the losses of a model on every text, in fp32 products of its stored weights.

    Raises:
        ModelError: the weights cannot be read.
    """
    model = load_model(checkpoint)
    nn.Module.to(model, device)
    network = TrainingNetwork(model)
    return {name: _measure(network, text) for name, text in texts.items()}


def _measure(network: nn.Module, text: WindowedText) -> TextLoss:
    loss = validation_loss(network, torch.split(text.windows, BATCH_WINDOWS))
    bits = loss * text.num_predicted / math.log(2)
    return TextLoss(loss, bits / text.num_bytes)
