"""What the tests of the CPU decoder share: model folders of many shapes, and asking a decoder."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch
from conftest import write_tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from stentor.engine.cpu_decoder import CpuDecoder
from stentor.engine.decoder import Answer, Decoder, Draw, Measure, Piece
from stentor.engine.sampling import SamplingSettings, uniform
from stentor.engine.threads import ThreadBudget
from stentor.loading import Checkpoint, open_checkpoint_folder
from stentor.models import MODELS

PRECISIONS = ("int8", "fp32")
GREEDY = SamplingSettings(temperature=0.0)
EMBEDDED = [name for name, spec in MODELS.items() if spec.folder and spec.folder.is_dir()]
# Grouped heads, an untied head, another RoPE base and norm epsilon; sizes that fill no register.
SHAPES: dict[str, dict[str, object]] = {
    "grouped": {
        "hidden_size": 48,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 10,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        "rms_norm_eps": 1e-3,
        "tie_word_embeddings": False,
    },
    "odd": {
        "hidden_size": 45,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 5,
        "num_key_value_heads": 1,
        "head_dim": 6,
        "tie_word_embeddings": True,
    },
}


def write_llama(folder: Path, name: str) -> Path:
    """Write a random Llama of a shape in SHAPES."""
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, object] = {
        "vocab_size": write_tiny_tokenizer(folder).get_vocab_size() + 3,
        "max_position_embeddings": 256,
        "bos_token_id": None,
        "eos_token_id": 0,
        "initializer_range": 0.2,
    }
    config = LlamaConfig(**values, **SHAPES[name])  # type: ignore[arg-type]
    with torch.random.fork_rng():
        torch.manual_seed(11)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def open_embedded(name: str) -> Checkpoint:
    """Return a model of the pair that ships with the playground."""
    folder = MODELS[name].folder
    assert folder is not None
    return open_checkpoint_folder(folder)


def open_decoder(
    checkpoint: Checkpoint,
    precision: str,
    *,
    threads: ThreadBudget | None = None,
    num_slots: int = 2,
    context_length: int | None = None,
) -> CpuDecoder:
    """Return a decoder, of one thread unless a test says otherwise."""
    return CpuDecoder(
        checkpoint,
        precision=precision,
        num_slots=num_slots,
        context_length=context_length or checkpoint.shape.context_length,
        threads=threads or ThreadBudget(1),
    )


def random_ids(checkpoint: Checkpoint, count: int, seed: int = 3) -> tuple[int, ...]:
    numbers = Random(seed)
    return tuple(numbers.randrange(checkpoint.shape.vocab_size) for _ in range(count))


def measure(
    decoder: CpuDecoder, ids: Sequence[int], sizes: Sequence[int], *, slot: int = 0, count: int = 0
) -> tuple[Answer, ...]:
    """Return what is told of ids[1:], read in pieces of these sizes."""
    answers: tuple[Answer, ...] = ()
    start = 0
    for size in sizes:
        targets = tuple(ids[start + 1 : start + size + 1])
        piece = Piece(slot, start, tuple(ids[start : start + size]), Measure(targets, count))
        answers += decoder.step([piece])[0]
        start += size
    return answers


@dataclass
class Request:
    """A prompt to be continued; `answers` grow until there are `num_new`."""

    prompt: tuple[int, ...]
    settings: SamplingSettings
    num_new: int
    num_alternatives: int = 0
    answers: list[Answer] = field(default_factory=list)
    num_read: int = 0

    @property
    def is_finished(self) -> bool:
        return len(self.answers) == self.num_new

    def next_piece(self, slot: int, most: int) -> Piece:
        """Return the next tokens, at most so many, and what to ask after them."""
        ids = self.prompt + tuple(answer.token_id for answer in self.answers)
        end = min(len(ids), self.num_read + most)
        piece = Piece(slot, self.num_read, ids[self.num_read : end], self._ask(end == len(ids)))
        self.num_read = end
        return piece

    def _ask(self, is_whole: bool) -> Draw | None:
        number = uniform(self.settings.seed, len(self.answers))
        return Draw(self.settings, number, self.num_alternatives) if is_whole else None


def new_requests(checkpoint: Checkpoint, count: int) -> list[Request]:
    """Return as many requests, no two alike."""
    numbers = Random(1)
    return [
        Request(
            random_ids(checkpoint, numbers.choice([1, 2, 12, 17, 60]), seed=100 + index),
            SamplingSettings(
                temperature=numbers.choice([0.0, 0.5, 1.0, 2.0]),
                top_p=numbers.choice([1.0, 0.9, 0.5]),
                top_k=numbers.choice([0, 0, 5, 100]),
                min_p=numbers.choice([0.0, 0.0, 0.05]),
                repetition_penalty=numbers.choice([1.0, 1.3, 0.8]),
                seed=index,
            ),
            num_new=numbers.choice([1, 6, 12]),
            num_alternatives=numbers.choice([0, 0, 3, 10]),
        )
        for index in range(count)
    ]


def run_alone(decoder: Decoder, request: Request, *, slot: int = 0, most: int = 1000) -> None:
    """Finish one request while nobody else is there."""
    while not request.is_finished:
        request.answers += decoder.step([request.next_piece(slot, most)])[0]


def run_in_a_room(decoder: CpuDecoder, requests: Sequence[Request], seed: int) -> None:
    """Finish all requests: they join as slots are free, in any slot, and wait as it happens."""
    numbers, waiting = Random(seed), list(requests)
    free, held = list(range(decoder.num_slots)), dict[int, Request]()
    while waiting or held:
        while waiting and free:
            held[free.pop(numbers.randrange(len(free)))] = waiting.pop(0)
        slots = [slot for slot in held if numbers.random() < 0.8] or list(held)
        numbers.shuffle(slots)
        most = numbers.choice([1, 2, 5, 8])  # 30 slots stay within a step
        pieces = [held[slot].next_piece(slot, most) for slot in slots]
        for slot, answers in zip(slots, decoder.step(pieces), strict=True):
            held[slot].answers += answers
            if held[slot].is_finished:
                del held[slot]
                free.append(slot)
