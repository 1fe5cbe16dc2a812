"""The table of known models and pairs, and how a reference written by a user finds its folder.

A reference is one of: a name in MODELS, `run:<id>/<checkpoint>`, or the path of a local folder.
Nothing here reads weights or the network; see loading.py and hub.py.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stentor.errors import ModelError
from stentor.home import assets_folder
from stentor.knobs import choose
from stentor.runs import list_checkpoints, list_runs, open_checkpoint

RUN_PREFIX = "run:"


@dataclass(frozen=True)
class ModelSpec:
    """One model: where it comes from and what its card says of it. `parameters` is the card's."""

    name: str
    title: str
    note: str
    hub_id: str | None = None
    folder: Path | None = None
    parameters: int | None = None


@dataclass(frozen=True)
class Pair:
    """Two models that belong side by side: the small one and what grew out of it.

    `sampling`: the settings that the page begins with for them, where the defaults do not suit.
    """

    name: str
    title: str
    left: str
    right: str
    sampling: Mapping[str, float] = field(default_factory=dict)


MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            name="stentor-30m",
            title="Stentor-30M",
            note="Base model, 21 layers of width 256.",
            hub_id="StentorLabs/Stentor-30M",
            parameters=30_419_712,
        ),
        ModelSpec(
            name="stentor-big",
            title="Stentor-Big",
            note="Grown from Stentor-30M to 30 layers of width 512, pre-trained in three stages.",
            hub_id="stas122/Stentor-Big",
            parameters=142_639_104,
        ),
        ModelSpec(
            name="demo-base",
            title="Demo base",
            note="Small stand-in for Stentor-30M, embedded in the project; works offline.",
            folder=assets_folder() / "models" / "demo-base",
        ),
        ModelSpec(
            name="demo-big",
            title="Demo big",
            note="Grown from the demo base by this project's own trainer; works offline.",
            folder=assets_folder() / "models" / "demo-big",
        ),
    )
}

PAIRS: dict[str, Pair] = {
    pair.name: pair
    for pair in (
        Pair("stentor", "Stentor-30M and Stentor-Big", left="stentor-30m", right="stentor-big"),
        Pair(
            "demo",
            "Demo pair (embedded)",
            left="demo-base",
            right="demo-big",
            # At the defaults, which are the real card's, nine of ten of its texts go round in
            # circles; with these one in ten (training/LOG.md).
            sampling={"temperature": 0.8, "repetition_penalty": 1.15},
        ),
    )
}


def pair_sampling(references: Collection[str]) -> Mapping[str, float]:
    """Return the settings that suit the pair that these models are of, one of it or both."""
    pairs = (pair for pair in PAIRS.values() if {pair.left, pair.right}.issuperset(references))
    return next((pair.sampling for pair in pairs), {})


def find_model(reference: str, *, allow_folders: bool = True) -> ModelSpec:
    """Turn what a user wrote into a ModelSpec.

    `allow_folders` is False where strangers type: a public server must not probe its own disk.

    Raises:
        OptionError, ModelError, RunError: nothing fits; the message lists what exists.
    """
    reference = reference.strip()
    if reference in MODELS:
        return MODELS[reference]
    if reference.startswith(RUN_PREFIX):
        return _checkpoint_spec(reference, open_checkpoint(reference))
    if "/" not in reference and "\\" not in reference and reference not in (".", ".."):
        return choose(MODELS, reference, "model")
    if not allow_folders:
        raise ModelError("Folders cannot be opened from here; choose a listed model.")
    local = _existing_folder(reference)
    if local is None:
        raise ModelError(
            f"{reference[:200]!r} is not a folder. Give a model folder (config.json, "
            f"model.safetensors, tokenizer.json) or one of: {', '.join(MODELS)}."
        )
    return ModelSpec(str(local), local.name, "A local folder.", folder=local.resolve())


def _existing_folder(reference: str) -> Path | None:
    """Return the folder of a path, or None for whatever else a user may have typed."""
    try:
        folder = Path(reference).expanduser()
        return folder if folder.is_dir() else None
    except (OSError, RuntimeError):  # a name too long for the system; a `~nobody`
        return None


def _checkpoint_spec(reference: str, folder: Path) -> ModelSpec:
    """Return a run's checkpoint, titled such as `practice-1a2b textbook-000024`."""
    run_name = folder.parent.parent.name.split("-", 2)[-1]
    title = f"{run_name} {folder.name}"
    return ModelSpec(reference, title, "A checkpoint of a training run.", folder=folder)


def list_checkpoint_models() -> list[ModelSpec]:
    """Return every complete checkpoint of every run, newest run first.

    A trainer may prune one of them at any moment: whoever opens it then gets an error of its own.
    """
    return [
        _checkpoint_spec(f"{RUN_PREFIX}{run.id}/{folder.name}", folder)
        for run in list_runs()
        for folder in list_checkpoints(run)
    ]
