"""One evaluation at work: both models at the same time, one thread, results to disk at once.

A prompt has the same settings and the same seed on both sides. A stop cancels what is being
generated and keeps what is finished. Knows no other evaluations and no Gradio.
"""

import math
from collections import deque
from dataclasses import dataclass, replace
from threading import Event, Lock, Thread
from time import monotonic, time

from stentor.engine.engine import GenerationRequest
from stentor.engine.sampling import SamplingSettings
from stentor.engine.stream import StopReason, Stream
from stentor.errors import BusyError, ModelError, OptionError, PromptError, StentorError
from stentor.evaluation_store import (
    Evaluation,
    EvaluationSettings,
    Result,
    append_result,
    write_evaluation,
)
from stentor.knobs import check
from stentor.prompts import Category, Prompt, find_category, prompts_of
from stentor.scorers import SCORERS
from stentor.store import LoadedModel, ModelStore, prepare_prompt

# Of one evaluation, per model, while there are slots that no visitor waits for; else one. They are
# decoded together, so that eight take little longer than one.
PROMPTS_AT_A_TIME = 8
POLL_SECONDS = 0.02
# After the engine refused a prompt because too many requests are waiting.
RETRY_SECONDS = 1.0


def sampling_for(category: Category, settings: EvaluationSettings) -> SamplingSettings:
    """Return the settings for a category's prompts: its own, or those that replace them."""
    temperature, tokens = settings.temperature, settings.max_new_tokens
    return check(
        SamplingSettings(
            temperature=category.temperature if temperature is None else float(temperature),
            max_new_tokens=category.max_new_tokens if tokens is None else int(tokens),
            seed=settings.seed,
        )
    )


@dataclass(frozen=True)
class _Task:
    """One prompt on its way through one model."""

    prompt: Prompt
    side: int
    stream: Stream
    num_prompt_tokens: int


class EvaluationWork:
    """One evaluation: its thread, and what is being generated for it now."""

    def __init__(self, store: ModelStore, evaluation: Evaluation, allow_folders: bool) -> None:
        self.evaluation = evaluation
        self._store = store
        self._allow_folders = allow_folders
        self._sampling = {
            name: SamplingSettings(**values) for name, values in evaluation.sampling.items()
        }
        self._lock = Lock()  # no stream may start once the stop was asked for
        self._is_stopping = Event()
        self._active: list[_Task] = []
        self._retry_at = [0.0, 0.0]  # by side, on the monotonic clock
        self._num_good = 0
        self._first_error: str | None = None
        # Not Thread.join: in Python 3.11 one that a Ctrl-C interrupts takes the thread for ended.
        self._has_ended = Event()

    @property
    def is_running(self) -> bool:
        """Tell whether more results may come."""
        return not self._has_ended.is_set()

    def start(self) -> None:
        """Begin in a thread of its own, which does not keep the process alive."""
        Thread(target=self._run, name=f"evaluation {self.evaluation.id}", daemon=True).start()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the last word is on disk, at most `timeout` seconds; return whether it is."""
        return self._has_ended.wait(timeout)

    def stop(self) -> None:
        """Cancel what is being generated; finished results stay."""
        with self._lock:
            self._is_stopping.set()
            for task in self._active:
                task.stream.cancel()

    def _run(self) -> None:
        try:
            self._describe_models()
            self._generate()
        except StentorError as error:
            self._finish("failed", str(error))
        except Exception as error:  # our own mistake: whoever watches must not wait for ever
            self._finish("failed", f"Unexpected {type(error).__name__}: {error}")
            raise
        else:
            if self._is_stopping.is_set():
                self._finish("stopped")
            elif self._num_good == 0:
                self._finish("failed", self._first_error)
            else:
                self._finish("finished")
        finally:
            self.stop()
            self._has_ended.set()

    def _finish(self, state: str, error: str | None = None) -> None:
        self.evaluation = replace(self.evaluation, state=state, finished=time(), error=error)
        write_evaluation(self.evaluation)

    def _describe_models(self) -> None:
        """Load both models and write down what they are."""
        used = []
        for model in self.evaluation.models:
            if self._is_stopping.is_set():
                return
            loaded = self._store.load(model.reference, self._allow_folders)
            used.append(
                replace(
                    model,
                    revision=loaded.checkpoint.revision,
                    num_parameters=loaded.checkpoint.num_parameters,
                    precision=loaded.engine.precision,
                    device=loaded.engine.device,
                    num_threads=loaded.engine.num_threads,
                )
            )
        self.evaluation = replace(self.evaluation, models=(used[0], used[1]))
        write_evaluation(self.evaluation)

    def _generate(self) -> None:
        """Keep both models busy until nothing is left or the stop is asked for."""
        prompts = prompts_of(self.evaluation.settings.category)
        waiting = (deque(prompts), deque(prompts))
        while not self._is_stopping.is_set():
            for side in (0, 1):
                self._fill(side, waiting[side])
            if not self._active and not any(waiting):
                return
            self._collect()

    def _fill(self, side: int, waiting: deque[Prompt]) -> None:
        """Submit prompts of one side: one at least, more only to slots that stand empty."""
        num_active = sum(task.side == side for task in self._active)
        is_full = num_active >= PROMPTS_AT_A_TIME or monotonic() < self._retry_at[side]
        if not waiting or is_full:
            return
        loaded = self._load_again(side)
        num_wanted = PROMPTS_AT_A_TIME if loaded.engine.num_free_slots else 1
        for _ in range(min(num_wanted - num_active, len(waiting))):
            try:
                self._submit(loaded, waiting[0], side)
            except BusyError:
                self._retry_at[side] = monotonic() + RETRY_SECONDS
                return
            waiting.popleft()

    def _submit(self, loaded: LoadedModel, prompt: Prompt, side: int) -> None:
        """Start one prompt; one that this model cannot take becomes a result that says so.

        Raises:
            BusyError: too many requests are waiting.
        """
        try:
            prepared = prepare_prompt(loaded, prompt.text)
            request = GenerationRequest(
                prepared.token_ids, self._sampling[prompt.category], self.evaluation.id
            )
            with self._lock:
                if not self._is_stopping.is_set():
                    stream = loaded.engine.submit(request)
                    self._active.append(_Task(prompt, side, stream, len(prepared.token_ids)))
        except (PromptError, OptionError) as error:
            self._record(replace(self._empty_result(prompt, side), error=str(error)))

    def _load_again(self, side: int) -> LoadedModel:
        """Return the model, which may have made room for another one between two prompts."""
        model = self.evaluation.models[side]
        loaded = self._store.load(model.reference, self._allow_folders)
        if loaded.checkpoint.revision != model.revision:
            raise ModelError(
                f"{model.title} was replaced while it was evaluated ({model.revision} became "
                f"{loaded.checkpoint.revision}). Run the category again."
            )
        return loaded

    def _collect(self) -> None:
        """Record what has ended; wait a moment where nothing has."""
        ended = [task for task in self._active if task.stream.is_done]
        for task in ended:
            with self._lock:
                self._active.remove(task)
            if not self._is_stopping.is_set():
                self._record(self._result_of(task))
        if not ended:
            self._is_stopping.wait(POLL_SECONDS)

    def _result_of(self, task: _Task) -> Result:
        snapshot = task.stream.snapshot()
        if snapshot.stop_reason is StopReason.STOPPED:
            raise ModelError("The model was closed while it answered. Run the category again.")
        result = replace(
            self._empty_result(task.prompt, task.side),
            num_prompt_tokens=task.num_prompt_tokens,
            text=snapshot.text,
            num_tokens=snapshot.num_tokens,
            stop_reason=str(snapshot.stop_reason),
            seconds_to_first_token=snapshot.seconds_to_first_token,
            tokens_per_second=snapshot.tokens_per_second,
            mean_log_probability=_mean([item.log_probability for item in task.stream.tokens]),
            error=snapshot.error,
        )
        if snapshot.error:
            return result
        score = SCORERS[result.scorer](snapshot.text, task.prompt)
        return replace(result, score=score.value, score_note=score.note)

    def _empty_result(self, prompt: Prompt, side: int) -> Result:
        return Result(
            prompt_id=prompt.id,
            category=prompt.category,
            prompt=prompt.text,
            side=side,
            model=self.evaluation.models[side].reference,
            scorer=find_category(prompt.category).scorer,
        )

    def _record(self, result: Result) -> None:
        append_result(self.evaluation, result)
        if result.error is None:
            self._num_good += 1
        else:
            self._first_error = self._first_error or result.error


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
