"""The form for a new run: recipe, length, own text, the exact command, and Start.

Where training is refused there is nothing to start or to upload: the form then says why, and shows
the command for a machine of one's own.

Handlers take widget values and return widget updates; what they do is in train_actions.py.
"""

from typing import Any

import gradio as gr
from gradio.components import Component

from stentor.errors import DataError
from stentor.hub import folder_of
from stentor.models import MODELS
from stentor.ui import train_view as view
from stentor.ui.context import AppContext
from stentor.ui.shared import HIDDEN, file_size, guarded, status_line
from stentor.ui.train_actions import (
    EVERY_STAGE,
    Plan,
    budgets_differ,
    command_of,
    planned_recipe,
    start_run,
)
from stentor.ui.train_uploads import MAX_FILE_BYTES, TEXT_KINDS, list_texts, save_texts
from training.recipe import Recipe, Stage, check_text
from training.recipes import RECIPES, find_recipe
from training.settings import CreateSettings, PretrainSettings

ABOUT_TEXT = (
    f'<p class="soft">{", ".join(TEXT_KINDS)}, at most {file_size(MAX_FILE_BYTES)} each; .jsonl '
    "and .parquet need a column called text. The files stay on the machine that runs the "
    "playground.</p>"
)


def build(context: AppContext, monitor: gr.HTML) -> None:
    """Create the form in the present layout; `monitor` is told which run was started."""
    form = _Form(context)
    form.connect(monitor)


class _Form:
    """The widgets of the form, then their events."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        self.refusal = context.training_refusal
        recipes = [find_recipe(name) for name in RECIPES]
        with gr.Row():
            self.recipe = gr.Dropdown(
                [(recipe.title, recipe.name) for recipe in recipes],
                value=recipes[0].name,
                label="Recipe",
                scale=3,
            )
            self.budget = gr.Radio(
                [("Steps", "steps"), ("Tokens", "tokens")],
                label="The length counts in",
                info="In this recipe the two disagree.",
                visible=False,
                scale=2,
            )
        self.notes = gr.HTML(js_on_load=None)
        self.cards = gr.HTML(js_on_load=None)
        if not self.refusal:
            self._build_text()
        self.command = gr.Textbox(
            label="Exact command",
            info="Starts this run from a terminal.",
            buttons=["copy"],
            interactive=False,
            elem_id="command",
        )
        with gr.Row(elem_id="start-row"):
            if not self.refusal:
                self.start = gr.Button(
                    "Start", variant="primary", size="md", scale=0, min_width=140
                )
            news = status_line(self.refusal, "warning") if self.refusal else None
            self.news = gr.HTML(news, js_on_load=None)

    def _build_text(self) -> None:
        with gr.Accordion("Train on your own text", open=False):
            gr.HTML(ABOUT_TEXT, js_on_load=None)
            with gr.Row():
                self.upload = gr.File(
                    label="Upload", file_count="multiple", file_types=list(TEXT_KINDS), height=130
                )
                with gr.Column():
                    self.texts = gr.Dropdown(
                        [],
                        multiselect=True,
                        label="Files to train on",
                        info="None chosen: the text of the recipe.",
                    )
                    self.stage = gr.Dropdown(
                        [("Every stage", EVERY_STAGE)], value=EVERY_STAGE, label="For the stage"
                    )

    def connect(self, monitor: gr.HTML) -> None:
        """Wire the events; what may be refused goes through the queue, see `guarded`."""
        quick = {**HIDDEN, "queue": False}
        own_text: list[Component] = [] if self.refusal else [self.texts, self.stage]
        plan = [self.recipe, self.budget, *own_text]
        # No trigger named: on page load, and whenever one of the inputs changes.
        gr.on(None, guarded(self.show), plan, [self.notes, self.cards, self.command], **quick)
        gr.on(None, guarded(self.offer), self.recipe, [self.budget, *own_text], **quick)
        if self.refusal:
            return
        uploaded = [self.upload, self.texts, self.news]
        self.upload.upload(guarded(self.keep), [self.upload, self.texts], uploaded, **HIDDEN)
        self.start.click(guarded(self.begin), plan, [monitor, self.news], **HIDDEN)

    def show(
        self,
        recipe_name: str,
        budget: str | None,
        texts: list[str] | None = None,
        stage: str = EVERY_STAGE,
    ) -> tuple[str, str, str]:
        """Return notes, cards and command of what is chosen."""
        plan = _plan(recipe_name, budget, texts, stage)
        recipe = planned_recipe(plan)
        return (
            view.notes(recipe, self._obstacles(recipe)),
            view.stage_cards(recipe),
            command_of(plan),
        )

    def offer(self, recipe_name: str) -> gr.Radio | list[Any]:
        """Fit the choices to a recipe: its budget, the uploaded files, the stages that read."""
        recipe = find_recipe(recipe_name)
        budget = next(
            (s.settings.budget for s in recipe.stages if isinstance(s.settings, PretrainSettings)),
            None,
        )
        length = gr.Radio(value=budget, visible=budgets_differ(recipe))
        if self.refusal:
            return length  # a single output takes no list
        stages = [(stage.title, stage.name) for stage in recipe.stages if _reads_text(stage)]
        return [
            length,
            gr.Dropdown(choices=list_texts()),
            gr.Dropdown(choices=[("Every stage", EVERY_STAGE), *stages], value=EVERY_STAGE),
        ]

    def keep(
        self, paths: list[str] | None, chosen: list[str] | None
    ) -> tuple[None, gr.Dropdown, str]:
        """Save uploaded files and choose them."""
        names = save_texts(paths or [], self.refusal)
        chosen = [*(chosen or []), *names]
        news = status_line(f"Kept {', '.join(names)}.", "good")
        return None, gr.Dropdown(choices=list_texts(), value=chosen), news

    def begin(
        self, recipe_name: str, budget: str | None, texts: list[str], stage: str
    ) -> tuple[dict[str, str], str]:
        """Start the run and show it."""
        plan = _plan(recipe_name, budget, texts, stage)
        run = start_run(plan, self.refusal)
        return {"run": run.id}, ""

    def _obstacles(self, recipe: Recipe) -> list[str]:
        """Return what would keep the recipe from starting here."""
        found = []
        start = MODELS.get(recipe.start or "")
        if start and folder_of(start) is None:
            found.append(f"{start.title} is not on this machine yet; fetch the real pair first.")
        try:
            check_text(recipe)
        except DataError as error:
            found.append(str(error))
        return found


def _plan(recipe_name: str, budget: str | None, texts: list[str] | None, stage: str) -> Plan:
    """Return what the widgets say; what equals the recipe's own wish is left out."""
    recipe = find_recipe(recipe_name)
    own = [s.settings.budget for s in recipe.stages if isinstance(s.settings, PretrainSettings)]
    is_known = any(stage == known.name for known in recipe.stages)
    return Plan(
        recipe=recipe_name,
        budget=budget if budget and set(own) != {budget} else None,
        texts=tuple(texts or ()),
        text_stage=stage if is_known else EVERY_STAGE,
    )


def _reads_text(stage: Stage) -> bool:
    return isinstance(stage.settings, CreateSettings | PretrainSettings)
