"""Starts and stops evaluations in threads of the app, tied to no browser; limits how many.

Every finished result is in the evaluation's folder at once (see evaluation_store.py), so that
anyone may watch, and a `kill -9` keeps it. The command line uses the same runner. Knows no Gradio.
"""

from dataclasses import asdict
from threading import Lock

from stentor.errors import RunError
from stentor.evaluation_store import (
    EvaluationSettings,
    ModelUsed,
    check_settings,
    create_evaluation,
    open_evaluation,
)
from stentor.evaluation_work import PROMPTS_AT_A_TIME, EvaluationWork, sampling_for
from stentor.models import find_model
from stentor.prompts import find_category, prompts_of, suite_hash
from stentor.provenance import machine, versions
from stentor.store import ModelStore

# In the whole app: each evaluation competes with everyone who is prompting.
MAX_RUNNING = 2


class EvaluationRunner:
    """Starts and stops evaluations: one per session, MAX_RUNNING in the whole app. Thread-safe."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._lock = Lock()  # guards the table
        self._works: dict[str, EvaluationWork] = {}  # by session; only those that are running

    def start(
        self, settings: EvaluationSettings, session: str, *, allow_folders: bool = True
    ) -> str:
        """Start an evaluation and return its id at once; progress is in its folder.

        `session` names who asks; `allow_folders` as in `find_model`.

        Raises:
            OptionError, ModelError: a category, model or value that does not exist or may not be.
            RunError: this session has one running already, or the app has too many.
        """
        check_settings(settings)
        first, second = (
            ModelUsed(reference, find_model(reference, allow_folders=allow_folders).title)
            for reference in settings.models
        )
        prompts = prompts_of(settings.category)
        names = dict.fromkeys(prompt.category for prompt in prompts)
        sampling = {name: asdict(sampling_for(find_category(name), settings)) for name in names}
        with self._lock:
            self._make_room(session)
            evaluation = create_evaluation(
                settings,
                (first, second),
                suite_hash=suite_hash(),
                sampling=sampling,
                total=2 * len(prompts),
                prompts_at_a_time=PROMPTS_AT_A_TIME,
                versions=versions(),
                machine=machine(),
            )
            work = EvaluationWork(self._store, evaluation, allow_folders)
            self._works[session] = work
            work.start()
        return evaluation.id

    def _make_room(self, session: str) -> None:
        """Forget what has ended; refuse where too much is running (call with the lock held)."""
        self._works = {name: work for name, work in self._works.items() if work.is_running}
        if session in self._works:
            raise RunError("An evaluation of yours is still running. Stop it or wait for its end.")
        if len(self._works) >= MAX_RUNNING:
            raise RunError(
                f"{len(self._works)} evaluations are running already, the most for this app. "
                "Try again when one has ended."
            )

    def running(self, session: str) -> str | None:
        """Return the id of the evaluation that this session has running, if it has."""
        with self._lock:
            work = self._works.get(session)
        return work.evaluation.id if work and work.is_running else None

    def stop(self, evaluation_id: str) -> None:
        """Stop within one token and keep what is finished; harmless when it has ended.

        Raises:
            RunError: there is no such evaluation, or another process runs it.
        """
        work = self._find(evaluation_id)
        if work is not None:
            work.stop()
        elif open_evaluation(evaluation_id).state == "running":
            raise RunError("Another process runs this evaluation; stop it where it was started.")

    def wait(self, evaluation_id: str, timeout: float | None = None) -> bool:
        """Wait for the end, at most `timeout` seconds; return whether it has come."""
        work = self._find(evaluation_id)
        return work is None or work.wait(timeout)

    def _find(self, evaluation_id: str) -> EvaluationWork | None:
        with self._lock:
            works = list(self._works.values())
        return next((work for work in works if work.evaluation.id == evaluation_id), None)

    def close(self) -> None:
        """Stop every evaluation and wait until their partial results are on disk."""
        with self._lock:
            works = list(self._works.values())
        for work in works:
            work.stop()
        for work in works:
            work.wait()
