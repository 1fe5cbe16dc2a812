"""The time machine of a run: what a model wrote at each of its positions, as plain JSON values.

A position is the start model (`base`), the grown model, or a step of a stage. The texts are what
the trainer recorded, nothing is generated here. Knows no Gradio and no HTML; the page escapes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from stentor.errors import OptionError
from stentor.runs import open_run
from stentor.ui.chart import Digest, as_number
from stentor.ui.shared import number
from stentor.ui.train_actions import check_name
from stentor.ui.train_feed import RunFeeds
from training.recipe import Recipe

MAX_TEXT = 4_000  # characters of one text that a browser is sent
POINT_TITLES = {"base": "Base model", "grown": "Grown, before training"}


def read_samples(feeds: RunFeeds, question: Mapping[str, Any]) -> dict[str, Any]:
    """Return the samples of a run that a browser does not have yet.

    `question`: run (id), have (how many samples it has been given) and rewound (of that reply). The
    reply holds the new `samples`, the new `have` and `rewound`, and `is_whole` where the browser
    must forget what it had: after a resume, positions are repeated.

    Raises:
        OptionError, RunError: a value that is no run or no count.
    """
    if not isinstance(question, Mapping):
        raise OptionError("The question must be an object with a run.")
    run = open_run(check_name(question.get("run", ""), "run"))
    have = question.get("have", 0)
    if type(have) is not int or have < 0:  # True is an int, too
        raise OptionError(f"The number of samples must be a whole number; got {have!r:.40}.")
    with feeds.follow(run) as feed:
        recipe = feed.recipe_of(run)
        events = list(feed.digest.samples)
        rewound = feed.digest.rewound
        is_whole = have == 0 or have > len(events) or question.get("rewound") != rewound
        fresh = events if is_whole else events[have:]
        found = [_to_json(event, recipe, feed.digest) for event in fresh]
    state = {"run": run.id, "have": len(events), "rewound": rewound, "is_whole": is_whole}
    return {**state, "samples": found}


def _to_json(event: Mapping[str, Any], recipe: Recipe, digest: Digest) -> dict[str, Any]:
    stage, step = str(event.get("stage", "")), _whole(event.get("step"))
    point = str(event.get("point", "checkpoint"))
    titles = {item.name: item.title for item in recipe.stages}
    names: Sequence[str] = list(titles)
    group = POINT_TITLES.get(point, titles.get(stage, stage))
    title = group if point in POINT_TITLES else f"{group}, step {step:,}"
    loss = _base_loss(digest, stage) if point == "base" else digest.loss_at(stage, step)
    return {
        "key": "base" if point == "base" else f"{stage}-{step}",
        "prompt": str(event.get("prompt", ""))[:MAX_TEXT],
        "text": str(event.get("text", ""))[:MAX_TEXT],
        "group": group,
        "title": title,
        "label": title if loss is None else f"{title}, loss {number(loss)}",
        "order": -1 if point == "base" else names.index(stage) if stage in names else len(names),
        "step": step,
        "settings": _settings(event),
    }


def _base_loss(digest: Digest, stage: str) -> float | None:
    """Return the loss of the start model, which the stage that grows it measures."""
    progress = digest.stages.get(stage)
    return as_number(progress.growth.get("loss_before")) if progress and progress.growth else None


def _settings(event: Mapping[str, Any]) -> str:
    """Return how a text was sampled, in a line: the same for every position of a prompt."""
    settings = event.get("settings")
    if not isinstance(settings, Mapping):
        return ""
    words = [
        f"temperature {number(as_number(settings.get('temperature')), 2)}",
        f"top-p {number(as_number(settings.get('top_p')), 2)}",
        f"{_whole(settings.get('max_new_tokens')):,} tokens",
        f"seed {_whole(event.get('seed'))}",
        str(event.get("precision", "")),
    ]
    return ", ".join(word for word in words if word)


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
