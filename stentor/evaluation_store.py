"""An evaluation is a folder below STENTOR_HOME/evaluations; this reads and writes it.

    <id>/evaluation.json   provenance and state, replaced atomically by the runner
         results.jsonl     append-only, one line per (prompt, model); a half-written end is ignored

Whoever reads keeps nothing, so any number of browsers may watch, and a `kill -9` costs no finished
result. Knows no engine and no Gradio; standard library only.
"""

import json
import math
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from stentor.errors import RunError
from stentor.home import evaluations_folder
from stentor.knobs import check, knob
from stentor.prompts import ALL, find_category
from stentor.runs import is_alive, process_start, write_json

EVALUATION_VERSION = 1
EVALUATION_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
RECORD_FILE = "evaluation.json"
RESULTS_FILE = "results.jsonl"
DIED = "The process ended before the evaluation did; what was finished is kept."


@dataclass(frozen=True)
class EvaluationSettings:
    """The complete input of an evaluation. `models`: the references of the two models.

    `temperature` and `max_new_tokens` replace those of every category; None keeps the category's.
    """

    category: str = ALL
    models: tuple[str, str] = ("demo-base", "demo-big")
    seed: int = knob(42, low=0, high=2**32 - 1, step=1, help="Same seed for every prompt and model")
    temperature: float | None = knob(
        None, low=0.0, high=2.0, step=0.05, help="For every category; else each keeps its own"
    )
    max_new_tokens: int | None = knob(
        None, low=1, high=511, step=1, help="For every category; else each keeps its own"
    )


def check_settings(settings: EvaluationSettings) -> EvaluationSettings:
    """Return `settings`, or raise OptionError naming what is wrong."""
    if settings.category != ALL:
        find_category(settings.category)
    return check(settings)


@dataclass(frozen=True)
class ModelUsed:
    """One of the two models; all but the reference and title is known once it is loaded.

    `device` and `num_threads` are unknown of evaluations by versions that had but one way.
    """

    reference: str
    title: str
    revision: str | None = None
    num_parameters: int | None = None
    precision: str | None = None
    device: str | None = None
    num_threads: int | None = None


@dataclass(frozen=True)
class Evaluation:
    """What `evaluation.json` holds. `state`: running, finished, stopped or failed.

    `sampling` has the settings really used, by category; `started` and `finished` are seconds since
    the epoch; `prompts_at_a_time` matters to speeds: that many prompts share a model.
    """

    id: str
    state: str
    settings: EvaluationSettings
    models: tuple[ModelUsed, ModelUsed]
    suite_hash: str
    sampling: Mapping[str, Mapping[str, Any]]
    total: int  # prompts x models
    prompts_at_a_time: int
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    pid: int | None
    process_start: str | None
    started: float
    finished: float | None = None
    error: str | None = None

    @property
    def folder(self) -> Path:
        """Return the folder of this evaluation."""
        return evaluations_folder() / self.id


@dataclass(frozen=True)
class Result:
    """One prompt continued by one model. `side`: 0 or 1, the place in `Evaluation.models`.

    `mean_log_probability` is in nats per token; `error` says why there is no text, if so.
    """

    prompt_id: str
    category: str
    prompt: str
    side: int
    model: str
    scorer: str
    text: str = ""
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    stop_reason: str | None = None
    seconds_to_first_token: float | None = None
    tokens_per_second: float | None = None
    mean_log_probability: float | None = None
    score: float | None = None
    score_note: str = ""
    error: str | None = None


def new_evaluation_id(category: str) -> str:
    """Return an id from the date, the category and four letters; newer ids sort later."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{category}-{secrets.token_hex(2)}"


def create_evaluation(
    settings: EvaluationSettings,
    models: tuple[ModelUsed, ModelUsed],
    *,
    suite_hash: str,
    sampling: Mapping[str, Mapping[str, Any]],
    total: int,
    prompts_at_a_time: int,
    versions: Mapping[str, str],
    machine: Mapping[str, Any],
) -> Evaluation:
    """Make a new evaluation folder in state `running`, owned by this process."""
    evaluation = Evaluation(
        id=new_evaluation_id(settings.category),
        state="running",
        settings=settings,
        models=models,
        suite_hash=suite_hash,
        sampling=sampling,
        total=total,
        prompts_at_a_time=prompts_at_a_time,
        versions=versions,
        machine=machine,
        pid=os.getpid(),
        process_start=process_start(os.getpid()),
        started=time.time(),
    )
    evaluation.folder.mkdir(parents=True)
    write_evaluation(evaluation)
    return evaluation


def write_evaluation(evaluation: Evaluation) -> None:
    """Replace the record atomically."""
    values = {"version": EVALUATION_VERSION, **asdict(evaluation)}
    write_json(evaluation.folder / RECORD_FILE, values)


def open_evaluation(evaluation_id: str) -> Evaluation:
    """Find an evaluation; one left `running` by a dead process reads as `stopped`.

    Raises:
        RunError: the id has a forbidden character, or no such evaluation exists, or it is damaged.
    """
    if not EVALUATION_ID.fullmatch(evaluation_id):
        received = repr(evaluation_id[:80])
        raise RunError(f"{received} is not an evaluation id (small letters, digits and hyphens).")
    path = evaluations_folder() / evaluation_id / RECORD_FILE
    if not path.is_file():
        raise RunError(f"There is no evaluation {evaluation_id!r}; it may have been deleted.")
    try:
        evaluation = _evaluation_from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{path} is damaged ({error!r}). Delete its folder.") from error
    if evaluation.id != evaluation_id:
        raise RunError(f"{path} calls itself {evaluation.id!r}: the folder was renamed or copied.")
    if evaluation.state == "running" and not is_alive(evaluation.pid, evaluation.process_start):
        return replace(evaluation, state="stopped", error=DIED)
    return evaluation


def _evaluation_from_json(values: dict[str, Any]) -> Evaluation:
    known = {name: values[name] for name in Evaluation.__dataclass_fields__ if name in values}
    first, second = (ModelUsed(**model) for model in known["models"])
    settings = {**known["settings"], "models": tuple(known["settings"]["models"])}
    known.update(models=(first, second), settings=EvaluationSettings(**settings))
    return Evaluation(**known)


def list_evaluations(most: int | None = None) -> list[Evaluation]:
    """Return the readable evaluations of this machine, newest first, at most `most`."""
    if not evaluations_folder().is_dir():
        return []
    names = sorted((path.name for path in evaluations_folder().iterdir()), reverse=True)
    return list(islice(_readable(names), most))


def _readable(names: Iterable[str]) -> Iterator[Evaluation]:
    """Yield those that can be read; a foreign folder must not hide the others."""
    for name in names:
        try:
            yield open_evaluation(name)
        except RunError:
            continue


def append_result(evaluation: Evaluation, result: Result) -> None:
    """Append one line and hand it to the system at once."""
    line = json.dumps(asdict(result)) + "\n"
    with (evaluation.folder / RESULTS_FILE).open("a", encoding="utf-8") as stream:
        stream.write(line)


def read_results(evaluation: Evaluation) -> list[Result]:
    """Return the finished results, in the order in which they were finished."""
    try:
        block = (evaluation.folder / RESULTS_FILE).read_bytes()
    except OSError:
        return []
    complete = block[: block.rfind(b"\n") + 1]
    return list(_parse_results(complete.splitlines()))


def _parse_results(lines: Iterable[bytes]) -> Iterator[Result]:
    """Yield what can be read: without a newer version's fields, without a torn line."""
    for line in lines:
        try:
            values = json.loads(line)
            known = {name: values[name] for name in Result.__dataclass_fields__ if name in values}
            yield Result(**known)
        except (ValueError, TypeError):
            continue


def num_results(evaluation: Evaluation) -> int:
    """Return how many results are finished, without parsing them."""
    try:
        return (evaluation.folder / RESULTS_FILE).read_bytes().count(b"\n")
    except OSError:
        return 0


@dataclass(frozen=True)
class Summary:
    """Scores of one category by one model. `mean` is None where nothing could be scored."""

    category: str
    side: int
    num_results: int
    num_scored: int
    mean: float | None


def summarise(results: Iterable[Result]) -> list[Summary]:
    """Return one summary per category and side, in the order in which they first appear."""
    groups: dict[tuple[str, int], list[Result]] = {}
    for result in results:
        groups.setdefault((result.category, result.side), []).append(result)
    summaries = []
    for (category, side), members in groups.items():
        scores = [item.score for item in members if item.score is not None]
        mean = math.fsum(scores) / len(scores) if scores else None
        summaries.append(Summary(category, side, len(members), len(scores), mean))
    return summaries
