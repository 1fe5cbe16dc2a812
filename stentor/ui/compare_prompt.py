"""The line under the prompt: how much of the context it takes, and what happens beyond."""

from stentor.errors import StentorError
from stentor.store import ModelStore, count_tokens
from stentor.ui.shared import status_line


def count_line(
    store: ModelStore, prompt: str, pair: tuple[str, str], overflow: str, *, allow_folders: bool
) -> str:
    """Return HTML with the tokens of `prompt` for both models of `pair`.

    The model with less room left decides; models of one family count alike.
    """
    try:
        loaded = [store.load(name, allow_folders=allow_folders) for name in pair]
        counts = [count_tokens(model, prompt) for model in loaded]
    except StentorError as error:
        return status_line(str(error), "error")
    num_tokens, context_length = max(
        zip(counts, (model.engine.context_length for model in loaded), strict=True),
        key=lambda item: item[0] / item[1],
    )
    used = f"{num_tokens:,} of {context_length:,} tokens"
    if len(set(counts)) > 1:
        used += f" (left {counts[0]:,}, right {counts[1]:,})"
    beyond = num_tokens - context_length + 1
    if beyond <= 0:
        return status_line(used)
    if overflow == "truncate":
        return status_line(f"{used}: the beginning will be left out to fit.", "warning")
    return status_line(f"{used}: too long by {beyond:,}; it will be refused.", "error")
