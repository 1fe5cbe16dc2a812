"""What the tests of the torch decoder share: model shapes, reference answers, a mark for GPUs."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from conftest import write_tiny_tokenizer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from stentor.engine.decoder import Answer, Draw, Measure, Piece
from stentor.engine.sampling import SamplingSettings, uniform
from stentor.engine.torch_decoder import TorchDecoder
from stentor.engine.torch_graphs import Capture, Outputs
from stentor.loading import Checkpoint, open_checkpoint_folder

CPU = torch.device("cpu")
CONTEXT = 256
GREEDY = SamplingSettings(temperature=0.0)
SETTINGS = [
    GREEDY,
    SamplingSettings(temperature=1.0, top_p=1.0, seed=1),
    SamplingSettings(temperature=0.8, top_k=9, repetition_penalty=1.4, seed=2),
    SamplingSettings(temperature=1.6, top_p=0.7, min_p=0.02, seed=3),
]
# Three shapes: tied; grouped heads, untied, an odd vocabulary; heads as wide as Stentor's.
SHAPES: dict[str, dict[str, object]] = {
    "tied": {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2},
    "grouped": {
        "hidden_size": 48,
        "intermediate_size": 40,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 10,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        "rms_norm_eps": 1e-3,
        "tie_word_embeddings": False,
    },
    "wide": {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4},
}

_has_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def on_gpu(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that is skipped where there is no CUDA device."""
    marked: Callable[..., None] = pytest.mark.gpu(_has_gpu(test))
    return marked


def write_llama(folder: Path, name: str) -> LlamaForCausalLM:
    """Write a random Llama of a shape in SHAPES; return it."""
    tokenizer = write_tiny_tokenizer(folder)
    values: dict[str, object] = {"tie_word_embeddings": True, **SHAPES[name]}
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size() + 3,
        num_hidden_layers=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=None,
        eos_token_id=0,
        initializer_range=0.2 if name != "wide" else 0.05,
        **values,  # type: ignore[arg-type]
    )
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    model.train(False)
    return model


def open_decoder(
    folder: Path, *, device: torch.device = CPU, num_slots: int = 40, capture: Capture | None = None
) -> TorchDecoder:
    """Return a decoder of a model folder."""
    return TorchDecoder(
        open_checkpoint_folder(folder),
        device=device,
        num_slots=num_slots,
        context_length=CONTEXT,
        capture=capture,
    )


def random_ids(checkpoint: Checkpoint, count: int, seed: int) -> tuple[int, ...]:
    """Return tokens of the model's vocabulary."""
    numbers = torch.Generator().manual_seed(seed)
    ids: Tensor = torch.randint(checkpoint.shape.vocab_size, (count,), generator=numbers)
    return tuple(ids.tolist())


class Request:
    """A prompt that is read in chunks and continued, step by step, in one slot."""

    def __init__(
        self, slot: int, prompt: Sequence[int], settings: SamplingSettings, chunk: int = 1000
    ) -> None:
        self.slot = slot
        self.ids = list(prompt)
        self.settings = settings
        self.answers: list[Answer] = []
        self.chunk = chunk
        self._num_read = 0

    def next_piece(self) -> Piece:
        """Return the next chunk of the prompt, or the newest token."""
        end = min(len(self.ids), self._num_read + self.chunk)
        number = uniform(self.settings.seed, len(self.answers))
        ask = Draw(self.settings, number) if end == len(self.ids) else None
        return Piece(self.slot, self._num_read, tuple(self.ids[self._num_read : end]), ask)

    def take(self, piece: Piece, answers: tuple[Answer, ...]) -> None:
        """Note that a piece was read, and what followed."""
        self._num_read += len(piece.token_ids)
        self.answers += answers
        self.ids += [answer.token_id for answer in answers]


def generate(decoder: TorchDecoder, requests: Sequence[Request], count: int) -> None:
    """Step until each request has `count` answers."""
    while any(len(request.answers) < count for request in requests):
        active = [request for request in requests if len(request.answers) < count]
        pieces = [request.next_piece() for request in active]
        for request, piece, answers in zip(active, pieces, decoder.step(pieces), strict=True):
            request.take(piece, answers)


def new_requests(folder: Path, count: int) -> list[Request]:
    """Return requests of all settings and lengths; the prompts of some cross a span."""
    checkpoint = open_checkpoint_folder(folder)
    lengths = [3, 11, 125, 40, 1]
    return [
        Request(
            slot,
            random_ids(checkpoint, lengths[slot % len(lengths)], seed=slot),
            SETTINGS[slot % len(SETTINGS)],
            chunk=[1000, 16, 7][slot % 3],
        )
        for slot in range(count)
    ]


def record(function: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
    """Record on the CPU as a graph does: a replay reads and writes where the recording did."""
    outputs = function()

    def replay() -> None:
        for output, value in zip(outputs, function(), strict=True):
            output.copy_(value)

    return replay, outputs


def score(decoder: TorchDecoder, ids: Sequence[int], slot: int = 0) -> tuple[Answer, ...]:
    """Return what the decoder measures of ids[1:], read at once."""
    return decoder.step([Piece(slot, 0, tuple(ids[:-1]), Measure(tuple(ids[1:])))])[0]


class NoHostTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuse every operation that touches a tensor outside the meta device, or would on CUDA."""

    def __torch_dispatch__(
        self,
        function: Callable[..., object],
        types: object,
        arguments: tuple[object, ...] = (),
        options: dict[str, object] | None = None,
    ) -> object:
        """Run one operation and look where its tensors are."""
        result = function(*arguments, **(options or {}))
        # On CUDA a plain number in torch.where becomes a tensor of the host that is copied.
        assert "where.Scalar" not in str(function), "a plain number in torch.where"
        for leaf in tree_leaves((arguments, options, result)):
            if isinstance(leaf, Tensor):
                assert leaf.device.type == "meta", f"{function} on {leaf.device}"
        return result
