"""Handing a finished run over from its page: the options as a form, the start, how it goes.

The work is a child of its own (see stentor/hand_overs.py); the token for the Hub is read by it from
the environment and never passes through a page. Knows no Gradio.
"""

import os
from collections.abc import Mapping
from typing import Any

from stentor import hand_overs
from stentor.errors import RunError
from stentor.knobs import from_json, to_json
from stentor.runs import current_status, open_run
from stentor.ui.train_actions import check_name
from stentor.ui.train_allowed import must_be_allowed
from stentor.ui.train_schema import describe_options
from training.hand_over.settings import HandOverSettings, check_settings


def hand_over(question: Mapping[str, Any], refusal: str | None) -> dict[str, Any]:
    """Return the options and how far it is; with `settings` among the question, start it first.

    Raises:
        RunError: not allowed here, no such run, not finished, or going already.
        OptionError: settings that are not allowed.
    """
    must_be_allowed(refusal)
    run = open_run(check_name(question.get("run", ""), "run"))
    asked = question.get("settings")
    if asked is not None:
        settings = check_settings(from_json(HandOverSettings, asked))
        state = current_status(run).state
        if state != "finished":
            raise RunError(f"Run {run.id} is {state}; only a finished run is handed over here.")
        hand_overs.start(run, to_json(settings))
    options = list(describe_options(HandOverSettings)["options"].values())
    if not os.environ.get("HF_TOKEN"):
        options = [option for option in options if option["name"] not in ("push", "public")]
    return {"options": options, **hand_overs.read(run)}
