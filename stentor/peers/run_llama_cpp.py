"""llama.cpp, as fast as its own library goes: `python -m stentor.peers.run_llama_cpp < job.json`.

Q8_0 and F16, all users as parallel sequences of one batch, through the low-level interface. All
threads or half of them, flash attention on or off: whatever is fastest here.
"""

import ctypes
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import llama_cpp

from stentor.peers.gguf_file import write_gguf
from stentor.peers.protocol import (
    DRAWINGS,
    GREEDY,
    Answer,
    Job,
    PeerError,
    Run,
    Series,
    repeated,
    serve,
)

KINDS = ("Q8_0", "F16")
# llama.cpp fills its cache in pieces of this many positions.
CACHE_STEP = 256
BATCH_TOKENS = 512
TRIAL_TOKENS = 8
FLASH_ATTENTION = {"on": 1, "off": 0}

# Drops what llama.cpp tells of every load; kept here, because C keeps only a pointer to it.
SILENT = llama_cpp.llama_log_callback(lambda level, text, data: None)


class Way(NamedTuple):
    """How one number of users is served fastest."""

    flash: str
    num_threads: int


class LlamaCpp:
    """One model and the sequences of one number of users."""

    def __init__(self, model: Any, job: Job, num_users: int, way: Way) -> None:  # noqa: ANN401
        self._job = job
        self._num_users = num_users
        length = len(job.prompts[0]) + job.num_tokens
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_seq_max = num_users
        parameters.n_ctx = num_users * -(-length // CACHE_STEP) * CACHE_STEP
        parameters.n_batch = max(BATCH_TOKENS, num_users * len(job.prompts[0]))
        parameters.n_ubatch = BATCH_TOKENS
        parameters.n_threads = parameters.n_threads_batch = way.num_threads
        parameters.flash_attn_type = FLASH_ATTENTION[way.flash]
        self._context = llama_cpp.llama_init_from_model(model, parameters)
        if not self._context:
            raise PeerError(f"llama.cpp made no context for {num_users} sequences")
        self._batch = llama_cpp.llama_batch_init(parameters.n_batch, 0, 1)

    def close(self) -> None:
        """Free the context."""
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)

    def run(self, num_tokens: int, *, is_greedy: bool) -> Run:
        """Read all prompts in one batch, then decode one token a user and step."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        samplers = [self._sampler(seed, is_greedy) for seed in range(self._num_users)]
        began = time.perf_counter()
        places = self._decode_prompts()
        seconds = 0.0
        first_seconds: tuple[float, ...] = ()
        for index in range(num_tokens):
            tokens = [
                llama_cpp.llama_sampler_sample(sampler, self._context, place)
                for sampler, place in zip(samplers, places, strict=True)
            ]
            seconds = time.perf_counter() - began
            first_seconds = first_seconds or (seconds,) * self._num_users
            if index + 1 < num_tokens:
                places = self._decode_step(tokens, len(self._job.prompts[0]) + index)
        for sampler in samplers:
            llama_cpp.llama_sampler_free(sampler)
        return Run(first_seconds, (seconds,) * self._num_users, num_tokens * self._num_users)

    def _sampler(self, seed: int, is_greedy: bool) -> Any:  # noqa: ANN401
        chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        if is_greedy:
            llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_greedy())
            return chain
        for sampler in (
            llama_cpp.llama_sampler_init_temp(self._job.temperature),
            llama_cpp.llama_sampler_init_top_p(self._job.top_p, 1),
            llama_cpp.llama_sampler_init_dist(seed),
        ):
            llama_cpp.llama_sampler_chain_add(chain, sampler)
        return chain

    def _decode_prompts(self) -> list[int]:
        """Decode every user's prompt; return where the logits after each of them are."""
        place, lasts = 0, []
        for user, prompt in enumerate(self._job.prompts[: self._num_users]):
            for position, token in enumerate(prompt):
                is_last = position + 1 == len(prompt)
                self._put(place, token, position, user, is_last)
                lasts += [place] if is_last else []
                place += 1
        self._decode(place)
        return lasts

    def _decode_step(self, tokens: list[int], position: int) -> list[int]:
        for user, token in enumerate(tokens):
            self._put(user, token, position, user, True)
        self._decode(len(tokens))
        return list(range(len(tokens)))

    def _put(self, place: int, token: int, position: int, user: int, is_asked: bool) -> None:
        batch = self._batch
        batch.token[place] = token
        batch.pos[place] = position
        batch.n_seq_id[place] = 1
        batch.seq_id[place][0] = user
        batch.logits[place] = is_asked

    def _decode(self, num_tokens: int) -> None:
        self._batch.n_tokens = num_tokens
        code = llama_cpp.llama_decode(self._context, self._batch)
        if code != 0:
            raise PeerError(f"llama_decode failed with code {code}")


@contextmanager
def _opened(model: Any, job: Job, num_users: int, way: Way) -> Iterator[LlamaCpp]:  # noqa: ANN401
    opened = LlamaCpp(model, job, num_users, way)
    try:
        yield opened
    finally:
        opened.close()


def measure(job: Job) -> Answer:
    """Measure every kind of weights, number of users and way of drawing."""
    llama_cpp.llama_log_set(SILENT, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    series: list[Series] = []
    notes: list[str] = []
    for kind in KINDS:
        path = Path(job.work_folder) / f"{kind}.gguf"
        write_gguf(path, job.files, job.shape, kind)
        parameters = llama_cpp.llama_model_default_params()
        # Its AMX kernels crash on some machines (ggml-org/llama.cpp issue 20824).
        parameters.use_extra_bufts = not job.is_careful
        began = time.perf_counter()
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if not model:
            raise PeerError("llama.cpp did not load the model")
        load_seconds = time.perf_counter() - began
        for num_users in job.users:
            way = _fastest_way(model, job, num_users)
            notes.append(
                f"{kind}, users {num_users}: threads {way.num_threads}, flash attention {way.flash}"
            )
            series += _measure_users(model, job, num_users, way, kind, load_seconds)
        llama_cpp.llama_model_free(model)
        path.unlink()
    return Answer(version("llama-cpp-python"), tuple(notes), tuple(series))


def _measure_users(
    model: Any,  # noqa: ANN401
    job: Job,
    num_users: int,
    way: Way,
    kind: str,
    load_seconds: float,
) -> list[Series]:
    with _opened(model, job, num_users, way) as opened:
        return [
            Series(
                engine="llama.cpp",
                precision=kind,
                drawing=drawing,
                num_users=num_users,
                num_threads=way.num_threads,
                load_seconds=load_seconds,
                runs=repeated(partial(opened.run, job.num_tokens, is_greedy=drawing == GREEDY)),
            )
            for drawing in DRAWINGS
        ]


def _fastest_way(model: Any, job: Job, num_users: int) -> Way:  # noqa: ANN401
    """Return the way in which a few tokens take least time, the second run of each."""
    seconds = {}
    for num_threads in {job.num_threads, max(1, job.num_threads // 2)}:
        for flash in FLASH_ATTENTION:
            way = Way(flash, num_threads)
            with _opened(model, job, num_users, way) as opened:
                num_tokens = min(TRIAL_TOKENS, job.num_tokens)
                opened.run(num_tokens, is_greedy=True)
                seconds[way] = opened.run(num_tokens, is_greedy=True).seconds
    return min(seconds, key=lambda way: seconds[way])


if __name__ == "__main__":
    sys.exit(serve(measure))
