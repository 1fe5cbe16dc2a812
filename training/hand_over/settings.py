"""What a hand-over can be told; flags, form and check come from here. Standard library only."""

import re
from dataclasses import dataclass

from stentor.errors import OptionError
from stentor.knobs import check, knob

# As the Hub names licences: mit, cc-by-sa-4.0.
LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]{1,40}")
REPOSITORY = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}")
NO_GGUF = "none"
MAX_NAME = 120


@dataclass(frozen=True)
class HandOverSettings:
    """How a run becomes a model folder, and where else it goes."""

    name: str = knob("", help="Of the model, for its card; nothing: the recipe's title")
    licence: str = knob("other", help="Of the weights, as the Hub names it: mit, cc-by-sa-4.0")
    dtype: str = knob(
        "float16", choices=("float16", "bfloat16", "float32"), help="Of the weights on disk"
    )
    gguf: str = knob(
        NO_GGUF, choices=(NO_GGUF, "F32", "F16", "Q8_0"), help="A file for llama.cpp as well"
    )
    push: str = knob(
        "", help="OWNER/NAME on the Hub to upload to; needs HF_TOKEN in the environment"
    )
    public: bool = knob(False, help="A new repository on the Hub is open to all")


def check_settings(settings: HandOverSettings) -> HandOverSettings:
    """Return the settings, or refuse what would break the card or names no repository.

    Raises:
        OptionError: names every value and what it must be like.
    """
    problems = []
    if not LICENCE.fullmatch(settings.licence):
        problems.append(
            "A licence is named as on the Hub, such as mit or cc-by-sa-4.0; got "
            f"{settings.licence!r:.60}."
        )
    if settings.push and not REPOSITORY.fullmatch(settings.push):
        problems.append(f"A repository is called OWNER/NAME; got {settings.push!r:.80}.")
    if len(settings.name) > MAX_NAME:
        problems.append(f"A name has at most {MAX_NAME} characters; got {len(settings.name)}.")
    if problems:
        raise OptionError(" ".join(problems))
    return check(settings)
