"""Which models are loaded, which could be, and from a user's text to the tokens of a prompt.

At most MAX_LOADED models are kept; the one unused for longest makes room, never one that is busy.
A load that fails changes nothing for the others. All engines share one budget of threads. Knows no
pages.
"""

import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from types import TracebackType

from tokenizers import Encoding

from stentor.engine.engine import Engine
from stentor.engine.precision import PRECISIONS, resolve
from stentor.engine.threads import ThreadBudget
from stentor.errors import ModelError, PromptError
from stentor.hub import folder_of
from stentor.knobs import choose, knob
from stentor.loading import Checkpoint, open_checkpoint_folder
from stentor.model_folder import is_complete, weight_files
from stentor.models import MODELS, ModelSpec, find_model, list_checkpoint_models
from stentor.provenance import num_cores

MAX_LOADED = 4
# Tokenising is bounded before it starts; 512 tokens are some 2,500 characters.
MAX_CHARACTERS = 100_000
OVERFLOW = {
    "refuse": "Refuse a prompt that does not fit",
    "truncate": "Leave out the beginning of a prompt that does not fit",
}


@dataclass(frozen=True)
class EngineOptions:
    """How models compute: flags of the app and of every command that loads a model."""

    precision: str = knob(
        "auto",
        choices=PRECISIONS,
        help="; ".join(f"{name}: {meaning}" for name, meaning in PRECISIONS.items()),
    )
    threads: int | None = knob(
        None, low=1, high=256, step=1, help="Of all models together; every core if left out"
    )


@dataclass(frozen=True)
class LoadedModel:
    """A model that answers: what was asked for, what was found, and who decodes it."""

    spec: ModelSpec
    checkpoint: Checkpoint
    engine: Engine


@dataclass(frozen=True)
class AvailableModel:
    """A line of a menu; `folder` is None where the model is not on this machine."""

    spec: ModelSpec
    folder: Path | None
    num_bytes: int  # of the weights

    @property
    def is_ready(self) -> bool:
        """Tell whether the model can be loaded now, without a download."""
        return self.folder is not None


@dataclass(frozen=True)
class PreparedPrompt:
    """The tokens to generate from, and how many at the beginning were left out."""

    token_ids: tuple[int, ...]
    num_dropped: int = 0


class ModelStore:
    """The loaded models of this process. Thread-safe."""

    def __init__(
        self,
        num_threads: int | None = None,
        precision: str = "auto",
        on_load: Callable[[LoadedModel], None] | None = None,
    ) -> None:
        """`num_threads` of all models together; None: every core this process may use.

        `precision`: a name in PRECISIONS. `on_load` hears of each model that was loaded.

        Raises:
            OptionError: no such precision, or this machine cannot compute in it.
        """
        self._threads = ThreadBudget(num_threads or num_cores())
        self._precision = resolve(precision)
        self._on_load = on_load
        self._lock = Lock()  # guards the two tables
        self._loaded: OrderedDict[str, LoadedModel] = OrderedDict()  # least recently used first
        self._loading: dict[str, Lock] = {}
        self._is_closed = False

    def __enter__(self) -> "ModelStore":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def load(self, reference: str, allow_folders: bool = True) -> LoadedModel:
        """Return the model of a reference, loading it if need be; call again before each use.

        Raises:
            OptionError, ModelError, RunError: it cannot be found or loaded; see find_model.
        """
        spec = find_model(reference, allow_folders=allow_folders)
        folder = folder_of(spec)
        if folder is None:
            raise ModelError(
                f"{spec.title} is not on this machine yet. Fetch it first, or choose another model."
            )
        key = _fingerprint(folder)
        with self._lock:
            loading = self._loading.setdefault(key, Lock())
        try:
            with loading:
                loaded = self._find(key) or self._read(key, spec, folder)
        finally:
            with self._lock:
                self._loading.pop(key, None)
        return replace(loaded, spec=spec)

    def close(self) -> None:
        """End every engine; no model is loaded any more."""
        with self._lock:
            self._is_closed = True
            engines = [loaded.engine for loaded in self._loaded.values()]
            self._loaded.clear()
        for engine in engines:
            engine.close()

    def _find(self, key: str) -> LoadedModel | None:
        with self._lock:
            if key in self._loaded:
                self._loaded.move_to_end(key)
            return self._loaded.get(key)

    def _read(self, key: str, spec: ModelSpec, folder: Path) -> LoadedModel:
        """Load a model, then let the one unused for longest go."""
        self._refuse_if_closed()
        with self._lock:
            is_idle = [loaded.engine.num_requests == 0 for loaded in self._loaded.values()]
        if len(is_idle) >= MAX_LOADED and not any(is_idle):
            raise ModelError(
                f"{len(is_idle)} models are loaded and all of them are busy. Stop one, or wait."
            )
        checkpoint = open_checkpoint_folder(folder)
        engine = Engine(checkpoint, precision=self._precision, threads=self._threads)
        loaded = LoadedModel(spec, checkpoint, engine)
        if self._on_load is not None:
            self._on_load(loaded)
        if self._is_closed:
            engine.close()
        self._refuse_if_closed()
        with self._lock:
            self._loaded[key] = loaded
            surplus = self._pop_surplus(key)
        for engine in surplus:
            engine.close()
        return loaded

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise ModelError("The models were closed: the playground is ending.")

    def _pop_surplus(self, newest: str) -> list[Engine]:
        """Take idle models out, least recently used first, until there are not too many."""
        engines = []
        for key, loaded in list(self._loaded.items()):
            has_room = len(self._loaded) <= MAX_LOADED
            if not has_room and key != newest and loaded.engine.num_requests == 0:
                engines.append(self._loaded.pop(key).engine)
        return engines

    def available(self) -> list[AvailableModel]:
        """Return the known models, then every checkpoint, newest run first; no vanished one."""
        known = [_describe(spec) for spec in MODELS.values()]
        checkpoints = [_describe(spec) for spec in list_checkpoint_models()]
        return known + [
            entry for entry in checkpoints if entry.spec.folder and entry.spec.folder.is_dir()
        ]


def open_store(options: EngineOptions) -> ModelStore:
    """Return a store that says on the error stream what it loads, and the memory that takes.

    Raises:
        OptionError: this machine cannot compute in the precision asked for.
    """
    return ModelStore(options.threads, options.precision, _print_load)


def _print_load(loaded: LoadedModel) -> None:
    print(f"{loaded.spec.title}: {loaded.engine.describe()}", file=sys.stderr, flush=True)


def _describe(spec: ModelSpec) -> AvailableModel:
    folder = folder_of(spec)
    if folder is None or not is_complete(folder):
        return AvailableModel(spec, None, 0)
    try:
        num_bytes = sum(file.stat().st_size for file in weight_files(folder))
    except (FileNotFoundError, ModelError):  # the trainer pruned it in this moment
        return AvailableModel(spec, None, 0)
    return AvailableModel(spec, folder, num_bytes)


def _fingerprint(folder: Path) -> str:
    """Name a folder and what is in it now, so that a folder written anew is loaded anew."""
    files = [folder / "config.json", folder / "tokenizer.json", *weight_files(folder)]
    stats = [file.stat() for file in files if file.is_file()]
    return f"{folder.resolve()} {[(stat.st_mtime_ns, stat.st_size) for stat in stats]}"


def count_tokens(loaded: LoadedModel, text: str) -> int:
    """Return how many tokens of the context a prompt takes; 0 for no text.

    Raises:
        PromptError: the text is too long, or no valid Unicode.
    """
    return len(encode(loaded, text).ids) if text else 0


def prepare_prompt(
    loaded: LoadedModel, text: str, overflow: str = "refuse", *, num_new_tokens: int = 1
) -> PreparedPrompt:
    """Turn a user's text into tokens that leave room in the context.

    `overflow` is a name in OVERFLOW: what to do with a prompt that leaves no room for a single new
    token. Cutting at the left then makes room for `num_new_tokens`, at most half of the context.

    Raises:
        PromptError: empty, too long, no valid Unicode, or it does not fit and may not be cut.
        OptionError: no such `overflow`.
    """
    choose(OVERFLOW, overflow, "way to handle a long prompt")
    if not text:
        raise PromptError("The prompt is empty. Write a few words for the model to continue.")
    encoding = encode(loaded, text)
    token_ids, num_special = encoding.ids, _num_special(encoding)
    if len(token_ids) <= num_special:
        raise PromptError("The tokenizer finds no token in this prompt. Write a few words.")
    context = loaded.engine.context_length
    if len(token_ids) < context:
        return PreparedPrompt(tuple(token_ids))
    if overflow == "refuse":
        raise PromptError(
            f"The prompt has {len(token_ids):,} tokens; {loaded.spec.title} has a context of "
            f"{context:,}, one of them to generate. Shorten it, or let its beginning be cut off "
            f"(tokens too many: {len(token_ids) - context + 1:,})."
        )
    kept = context - min(max(1, num_new_tokens), context // 2)
    start = len(token_ids) - (kept - num_special)
    return PreparedPrompt((*token_ids[:num_special], *token_ids[start:]), start - num_special)


def encode(loaded: LoadedModel, text: str) -> Encoding:
    """Return the tokens of a text, and their places in it.

    Raises:
        PromptError: the text is too long, or no valid Unicode.
    """
    if len(text) > MAX_CHARACTERS:
        raise PromptError(
            f"The prompt has {len(text):,} characters; the most is {MAX_CHARACTERS:,}. Shorten it."
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(
            f"Character {error.start + 1} of the prompt is half of a character (a lone surrogate). "
            "Delete it and try again."
        ) from error
    return loaded.checkpoint.tokenizer.encode(text)


def _num_special(encoding: Encoding) -> int:
    """Return how many tokens the tokenizer itself put in front."""
    special = encoding.special_tokens_mask
    return next((place for place, flag in enumerate(special) if not flag), len(special))
