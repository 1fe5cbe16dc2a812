"""Whether anyone may change something on the Training tab. Knows no Gradio."""

from stentor import jobs
from stentor.errors import RunError


def must_be_allowed(refusal: str | None) -> None:
    """Raise RunError where training is switched off; a Space is asked each time."""
    why = refusal or jobs.training_refusal()
    if why:
        raise RunError(why)
