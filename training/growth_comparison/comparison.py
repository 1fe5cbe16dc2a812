"""A whole comparison: plan it, run what is missing, write the results, the chart and the summary.

A rerun with the same folder goes on: the plan and all finished runs are taken from there.
"""

import json
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from stentor.errors import INTERRUPTED, DataError, OptionError
from stentor.home import home
from stentor.loading import Checkpoint, read_json
from stentor.provenance import machine, versions
from training.checkpoint import end_token_of
from training.data import StageData, open_stage_data, prepare_stage_data
from training.flops import training_flops_per_token
from training.generated_text import FLAVOURS
from training.growth_comparison.chart import make_figure
from training.growth_comparison.experiment import (
    Experiment,
    check_strategies,
    loss_before,
    rehearse,
    target_of,
    train_run,
)
from training.growth_comparison.options import ComparisonOptions, in_words
from training.growth_comparison.page import write_page
from training.growth_comparison.plan import (
    DATA_FOLDER,
    Plan,
    Target,
    check_same,
    describe_plan,
    duration,
    make_plan,
    read_plan,
    with_steps,
    write_plan,
)
from training.growth_comparison.report import (
    LEGEND,
    Conditions,
    Report,
    conditions_lines,
    last_line,
    make_report,
    sentences,
    table_lines,
    write_summary,
)
from training.growth_comparison.results import Point, append_result, read_results
from training.integrity import TRAINER_FILE
from training.settings import WINDOW_TOKENS, PretrainSettings, Source, describe_sources
from training.single import open_reference
from training.workers import Workers, open_workers

# Between two lines while one model trains.
QUIET_SECONDS = 15.0
# The model whose training tokens are known for certain: it never was anything but trained once.
KNOWN_MODEL = "demo-base"


def compare(
    options: ComparisonOptions, given: Sequence[str], output: Path | None, started: float
) -> int:
    """Do a whole comparison and print its report; the last line is JSON.

    `given`: names of the options that the user gave; `started`: time.monotonic() of the command.

    Returns:
        0, or 130 where Ctrl-C ended it: what was done is kept and reported.

    Raises:
        StentorError: an option, the model, the text or the folder is not as it should be.
    """
    folder = output or home() / "growth" / time.strftime("%Y%m%d-%H%M%S")
    stored = read_plan(folder)
    if stored is not None and "model" not in given:
        options = replace(options, model=stored.model)
    _check_text(options)
    workers = open_workers(options.threads)
    if workers.num_workers > 1:
        raise OptionError("A comparison runs in one process; start it without a launcher.")
    parent = open_reference(options.model)
    plan = make_plan(
        options, parent.revision, _target(options, parent), _source_tokens(options, parent)
    )
    if stored is not None:
        check_same(stored, plan, given)
    plan = _begin(stored or plan, parent, workers, folder, started)
    conditions, experiment = _prepare(plan, parent, workers, folder)
    write_plan(folder, plan)
    is_interrupted = _run_missing(experiment, conditions, folder, started)
    report = make_report(conditions, read_results(folder))
    if not report.arms:
        _say("No run was finished, so there is nothing to report.")
        return INTERRUPTED if is_interrupted else 1
    _print_report(report, _write(report, folder), folder)
    return INTERRUPTED if is_interrupted else 0


def _check_text(options: ComparisonOptions) -> None:
    """Refuse a file that is not there before a rehearsal takes its seconds."""
    lost = [path for path in options.text if not Path(path).exists()]
    if lost:
        raise DataError(f"{', '.join(lost)} does not exist. Check the path given with --text.")


def _target(options: ComparisonOptions, parent: Checkpoint) -> Target:
    return target_of(
        parent.shape,
        options.hidden_size,
        options.intermediate_size,
        options.num_layers,
        options.num_heads,
    )


def _source_tokens(options: ComparisonOptions, parent: Checkpoint) -> int | None:
    """Return the tokens that the small model was trained on, where that is known."""
    if options.source_tokens is not None or options.model != KNOWN_MODEL:
        return options.source_tokens
    return int(read_json(parent.folder / TRAINER_FILE)["tokens"])


def _begin(plan: Plan, parent: Checkpoint, workers: Workers, folder: Path, started: float) -> Plan:
    """Choose the steps of a new comparison; print the plan."""
    check_strategies(parent.shape, plan)
    is_new = not plan.predicted_seconds
    if is_new:
        _say("Measuring the speed of this machine for a few seconds.")
        experiment = Experiment(parent, plan, workers, _no_data)
        speeds = rehearse(experiment)
        plan = with_steps(plan, speeds, time.monotonic() - started)
    for line in describe_plan(plan, describe_text(plan)):
        _say(line)
    _say(f"Results go to {folder}" if is_new else f"Going on with {folder}")
    return plan


def _no_data(_seed: int) -> StageData:
    raise AssertionError("A rehearsal reads no text.")


def sources_of_plan(plan: Plan) -> tuple[Source, ...]:
    """Return the text of a comparison: the files given, or every flavour of generated text."""
    if plan.text:
        return (Source(kind="files", paths=plan.text),)
    return tuple(Source(name=flavour) for flavour in FLAVOURS)


def describe_text(plan: Plan) -> str:
    """Return the text of a comparison in a few words."""
    if plan.text:
        return describe_sources(sources_of_plan(plan))
    return f"generated text ({', '.join(FLAVOURS)})"


def _prepare(
    plan: Plan, parent: Checkpoint, workers: Workers, folder: Path
) -> tuple[Conditions, Experiment]:
    """Prepare the text for all seeds and measure the small model on what is held out."""
    settings = PretrainSettings(
        num_steps=plan.steps * plan.num_seeds,
        batch_size=plan.batch_size,
        max_epochs=plan.max_epochs * plan.num_seeds,
        validation_windows=plan.validation_windows,
    )
    data = prepare_stage_data(
        sources_of_plan(plan),
        parent.tokenizer,
        end_token_of(parent),
        settings,
        folder / DATA_FOLDER,
        0,
        _say,
    )
    experiment = Experiment(
        parent, plan, workers, lambda seed: open_stage_data(folder / DATA_FOLDER, seed)
    )
    per_token = training_flops_per_token(parent.shape, WINDOW_TOKENS)
    conditions = Conditions(
        plan=plan,
        text=describe_text(plan),
        data_fingerprint=data.fingerprint,
        source_loss=loss_before(experiment, data),
        source_parameters=parent.num_parameters,
        source_flops=plan.source_tokens * per_token if plan.source_tokens else None,
        device=str(workers.device),
        machine=dict(machine()),
        versions={
            **versions(),
            **{name: version(name) for name in ("transformers", "accelerate", "plotly")},
        },
    )
    return conditions, experiment


def _run_missing(
    experiment: Experiment, conditions: Conditions, folder: Path, started: float
) -> bool:
    """Do every run that has no result yet; tell whether Ctrl-C ended that."""
    plan = experiment.plan
    done = {result.key for result in read_results(folder)}
    try:
        for number, key in enumerate(plan.runs, start=1):
            if key in done:
                continue
            title = f"run {number} of {len(plan.runs)}, {in_words(key[0])}, seed {key[2]}"
            result = train_run(experiment, *key, _reporter(title))
            append_result(folder, result)
            ending = result.error or f"loss {result.final_loss:.4f}"
            _say(
                f"{title}: {ending} ({duration(result.seconds)}; "
                f"{duration(time.monotonic() - started)} in all)"
            )
    except KeyboardInterrupt:
        _say("Interrupted. What is done is kept; the same command with this folder goes on:")
        _say(f"  python -m training compare-growth --output {shlex.quote(str(folder))}")
        return True
    return False


def _reporter(title: str) -> Callable[[Point], None]:
    """Return what prints a measurement where the last line is some time ago."""
    last = [time.monotonic()]

    def report(point: Point) -> None:
        if time.monotonic() - last[0] > QUIET_SECONDS:
            last[0] = time.monotonic()
            _say(f"  {title}: step {point.step}, loss {point.validation_loss:.4f}")

    return report


def _write(report: Report, folder: Path) -> Path:
    """Write summary and page; return the page's path."""
    write_summary(folder, report)
    conditions = report.conditions
    figure = make_figure(
        report.results, report.arms, conditions.source_loss, conditions.source_flops
    )
    return write_page(folder, report, figure)


def _print_report(report: Report, page: Path, folder: Path) -> None:
    _say("")
    for line in (*table_lines(report), "", *LEGEND, "", *sentences(report)):
        _say(line)
    for line in conditions_lines(report):
        _say(line)
    _say(f"Chart: {page}")
    print(json.dumps(last_line(report, folder)), flush=True)


def _say(line: str) -> None:
    print(line, flush=True)
