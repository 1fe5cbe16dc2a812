"""What the planner asks of the server: lists, checks of a draft, rehearsals, the start of a run.

Each method takes the question that a browser sent and answers plain JSON. Whatever starts, writes
or stops something asks first whether it may. Knows no Gradio.
"""

from collections import OrderedDict
from typing import Any

from stentor import jobs, rehearsals
from stentor.errors import OptionError, RunError
from stentor.home import uploads_folder
from stentor.models import MODELS, list_checkpoint_models
from stentor.runs import current_status, list_runs, open_run, read_recipe
from stentor.ui.train_actions import check_name, start_run
from stentor.ui.train_allowed import must_be_allowed
from stentor.ui.train_command import recipe_digest, save_recipe
from stentor.ui.train_draft import draft_of
from stentor.ui.train_plan import (
    Rules,
    check_plan,
    load_text,
    load_values,
    planned_recipe,
    whole_recipe,
    without_folders,
)
from stentor.ui.train_schema import schema
from stentor.ui.train_uploads import list_texts
from stentor.ui.train_view import run_label
from training.recipe import recipe_to_json
from training.recipes import RECIPES, find_recipe

JOB_KINDS = ("check", "rehearse")
# A menu of more than this helps nobody.
MAX_RUNS, MAX_CHECKPOINTS = 40, 60
# Checks remembered, so that a start can tell which plan was checked.
MAX_JOBS = 200
Question = dict[str, Any]
Answer = dict[str, Any]


class Launcher:
    """Answers for all visitors; remembers only which plan each check was of."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.checked: OrderedDict[str, str] = OrderedDict()  # job -> digest of its recipe

    def read_planner(self, question: Question) -> Answer:
        """Return what the menus and forms are made of."""
        presets = [find_recipe(name) for name in RECIPES]
        return {
            "schema": schema(),
            "presets": [
                {"name": recipe.name, "title": recipe.title, "draft": draft_of(recipe)}
                for recipe in presets
            ],
            "refusal": self.rules.refusal or jobs.training_refusal() or "",
            "allow_folders": self.rules.allow_folders,
            "models": [{"name": m.name, "title": m.title} for m in MODELS.values()],
            **self._lists(),
        }

    def check_draft(self, question: Question) -> Answer:
        """Return what is wrong with a draft, its cards, totals and command; lists if asked for."""
        answer = check_plan(question.get("draft"), self.rules)
        answer["busy"] = "" if self.rules.refusal else _busy(answer["devices"])
        return {**answer, **self._lists()} if question.get("wants_lists") else answer

    def load_recipe(self, question: Question) -> Answer:
        """Return the draft that a recipe file's text holds."""
        return {"draft": load_text(question.get("text"))}

    def clone_recipe(self, question: Question) -> Answer:
        """Return the draft of a past run; where nothing may start, without its folders."""
        run = open_run(check_name(question.get("run"), "run"))
        draft = load_values(read_recipe(run))
        return {"draft": without_folders(draft) if self.rules.refusal else draft}

    def save_command(self, question: Question) -> Answer:
        """Save the recipe that a command names, if it names a file; return the command."""
        must_be_allowed(self.rules.refusal)
        return {"text": save_recipe(whole_recipe(question.get("draft")), self.rules.refusal).text}

    def start_job(self, question: Question) -> Answer:
        """Begin to check or to rehearse a plan; return the job's id."""
        must_be_allowed(self.rules.refusal)
        kind = check_name(question.get("kind"), "kind of job")
        if kind not in JOB_KINDS:
            raise OptionError(f"{kind!r:.80} is none of {', '.join(JOB_KINDS)}.")
        recipe = planned_recipe(question.get("draft"), self.rules)
        job = rehearsals.start(kind, recipe_to_json(recipe))
        self.checked[job] = recipe_digest(recipe)
        while len(self.checked) > MAX_JOBS:
            self.checked.popitem(last=False)
        return {"job": job}

    def read_job(self, question: Question) -> Answer:
        """Return how a check or rehearsal is doing, and its report when it is done."""
        must_be_allowed(self.rules.refusal)
        return dict(rehearsals.read(check_name(question.get("job"), "job")))

    def stop_job(self, question: Question) -> Answer:
        """Stop a check or rehearsal."""
        must_be_allowed(self.rules.refusal)
        rehearsals.stop(check_name(question.get("job"), "job"))
        return {"news": "Stopped."}

    def start_plan(self, question: Question) -> Answer:
        """Start a plan, or put it in line; only one that was checked and has no error."""
        must_be_allowed(self.rules.refusal)
        recipe = planned_recipe(question.get("draft"), self.rules)
        job = check_name(question.get("job"), "check")
        levels = self._levels(job, recipe_digest(recipe))
        if "error" in levels:
            raise RunError("The check found errors. Mend them, then start.")
        if "warning" in levels and question.get("anyway") is not True:
            raise RunError("The check found warnings. Mend them, or press Start anyway.")
        run = start_run(recipe, self.rules.refusal, queue=question.get("queue") is True)
        return {"run": run.id}

    def _levels(self, job: str, digest: str) -> set[str]:
        """Return the levels of the problems that a finished check of this very plan found."""
        found = rehearsals.read(job) if self.checked.get(job) == digest else {}
        report = found.get("report")
        if found.get("state") != "finished" or not isinstance(report, dict):
            raise RunError("This plan was not checked to its end. Press Start again to check it.")
        return {str(problem.get("level")) for problem in report.get("problems", ())}

    def _lists(self) -> Answer:
        """Return what other people and runs may have changed: files, runs and checkpoints."""
        runs = [(run, current_status(run).state) for run in list_runs()[:MAX_RUNS]]
        answer: Answer = {
            "runs": [{"id": run.id, "label": run_label(run, state)} for run, state in runs],
            "checkpoints": [
                {"name": model.name, "title": model.title}
                for model in list_checkpoint_models()[:MAX_CHECKPOINTS]
            ],
            "texts": [],
        }
        if not self.rules.refusal:
            folder = uploads_folder()
            answer["texts"] = [{"name": name, "path": str(folder / name)} for name in list_texts()]
        return answer


def _busy(devices: str) -> str:
    """Return the run that these devices wait for, or nothing; a start decides anew."""
    run = jobs.blocking_run(devices)
    return run.id if run else ""
