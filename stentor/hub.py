"""The real pair from the Hugging Face Hub: what the local cache holds, and fetching what it lacks.

Only JSON, safetensors and tokenizer files of a repository's top level are fetched. Once a model is
complete in the cache it stays at that commit and the network is not asked again. A Hub that cannot
be reached is a state with a plain message, never an exception in somebody's face.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from threading import Lock, Thread
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils.tqdm import tqdm

from stentor.errors import ModelError
from stentor.model_folder import is_complete
from stentor.models import ModelSpec

PATTERNS = ("*.json", "*.safetensors", "tokenizer*")
ANSWER_SECONDS = 10.0  # a Hub that has not answered by then counts as unreachable
SERVER_ERROR = 500

Answer = TypeVar("Answer")


class UnreachableError(ModelError):
    """The Hub does not answer; nothing is wrong with what was asked."""


@dataclass(frozen=True)
class FetchState:
    """How far a download is. `state`: idle, checking, fetching, ready, unreachable or failed."""

    state: str = "idle"
    done_bytes: int = 0
    total_bytes: int = 0
    message: str = ""


@dataclass(frozen=True)
class _Plan:
    """The files of one model at one commit, with their sizes in bytes."""

    hub_id: str
    revision: str
    sizes: dict[str, int]


def is_offline() -> bool:
    """Tell whether the user switched the Hub off (HF_HUB_OFFLINE)."""
    chosen = os.environ.get("HF_HUB_OFFLINE", "").strip().upper()
    return constants.HF_HUB_OFFLINE or chosen in ("1", "TRUE", "YES", "ON")


def cache_folder() -> Path:
    """Return the Hub's local cache as the environment names it now."""
    if chosen := os.environ.get("HF_HUB_CACHE"):
        return Path(chosen).expanduser()
    if chosen := os.environ.get("HF_HOME"):
        return Path(chosen).expanduser() / "hub"
    return Path(constants.HF_HUB_CACHE)


def cached_folder(spec: ModelSpec) -> Path | None:
    """Return the complete snapshot of a model in the local cache, if there is one; no network.

    The commit that `main` last named comes first, then the newest other complete snapshot.
    """
    if spec.hub_id is None:
        return None
    repository = cache_folder() / repo_folder_name(repo_id=spec.hub_id, repo_type="model")
    snapshots = sorted(
        (repository / "snapshots").glob("*"), key=lambda path: path.stat().st_mtime_ns, reverse=True
    )
    main = repository / "refs" / "main"
    if main.is_file():
        snapshots.insert(0, repository / "snapshots" / main.read_text(encoding="utf-8").strip())
    return next((folder for folder in snapshots if is_complete(folder)), None)


def folder_of(spec: ModelSpec) -> Path | None:
    """Return where the model's files are on this machine, or None; never asks the network."""
    return spec.folder or cached_folder(spec)


class Fetcher:
    """Downloads models in the background; any number of browsers may read its state."""

    def __init__(self, specs: Sequence[ModelSpec]) -> None:
        self._specs = tuple(specs)
        self._lock = Lock()
        self._thread: Thread | None = None
        self._state = FetchState()

    def state(self) -> FetchState:
        """Return how far the download is."""
        return self._state

    def start(self) -> None:
        """Begin, or try again; without effect while a download is going or when all is there."""
        with self._lock:
            if self._state.state in ("checking", "fetching", "ready"):
                return
            self._state = FetchState("checking", message="Looking for the models.")
            self._thread = Thread(target=self._fetch, name="stentor-fetch", daemon=True)
            self._thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the present try has ended; return whether it has."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
        return thread is None or not thread.is_alive()

    def _fetch(self) -> None:
        def report(done_bytes: int, total_bytes: int) -> None:
            self._state = FetchState("fetching", done_bytes, total_bytes, "Fetching the models.")

        try:
            fetch(self._specs, report)
        except UnreachableError as error:
            self._state = replace(self._state, state="unreachable", message=str(error))
        except ModelError as error:
            self._state = replace(self._state, state="failed", message=str(error))
        except Exception as error:  # noqa: BLE001 - the thread's reader is the page, not a console
            message = f"Fetching failed: {type(error).__name__}: {error}"
            self._state = replace(self._state, state="failed", message=message)
        else:
            total = self._state.total_bytes
            self._state = FetchState("ready", total, total, "The models are on this machine.")


def fetch(specs: Sequence[ModelSpec], report: Callable[[int, int], None]) -> None:
    """Bring every model into the local cache; `report` hears bytes done and bytes in all.

    Raises:
        UnreachableError: the Hub does not answer, or HF_HUB_OFFLINE is set.
        ModelError: the repository does not exist, is closed, or lacks a file.
    """
    missing = [spec for spec in specs if spec.hub_id and cached_folder(spec) is None]
    if missing and is_offline():
        raise UnreachableError(
            "HF_HUB_OFFLINE is set, so the Hub is not asked. The models at hand work as they are."
        )
    plans = [_asked(spec, _plan, spec) for spec in missing]
    done_bytes, total_bytes = 0, sum(sum(plan.sizes.values()) for plan in plans)
    for spec, plan in zip(missing, plans, strict=True):
        for name, size in plan.sizes.items():
            meter = _meter_class(done_bytes, total_bytes, report)
            _asked(spec, _download, plan, name, meter)
            done_bytes += size
            report(done_bytes, total_bytes)
        if cached_folder(spec) is None:
            raise ModelError(
                f"{spec.hub_id} has no config.json, tokenizer.json or safetensors weights at "
                f"{plan.revision[:12]}, so it cannot be loaded."
            )


def _plan(spec: ModelSpec) -> _Plan:
    """Ask the Hub for the present commit and its files."""
    assert spec.hub_id is not None
    api = HfApi()
    # Also writes the cache's refs/main, which is how the commit is remembered.
    revision = api.resolve_revision(spec.hub_id, cache_dir=cache_folder())
    info = api.model_info(
        spec.hub_id, revision=revision, files_metadata=True, timeout=ANSWER_SECONDS
    )
    sizes = {
        item.rfilename: item.size or 0
        for item in info.siblings or ()
        if "/" not in item.rfilename and any(fnmatch(item.rfilename, p) for p in PATTERNS)
    }
    return _Plan(spec.hub_id, str(revision), sizes)


def _download(plan: _Plan, name: str, meter: type[tqdm]) -> None:
    hf_hub_download(
        plan.hub_id,
        name,
        revision=plan.revision,
        cache_dir=cache_folder(),
        etag_timeout=ANSWER_SECONDS,
        tqdm_class=meter,
    )


def _meter_class(
    before_bytes: int, total_bytes: int, report: Callable[[int, int], None]
) -> type[tqdm]:
    """Return a progress bar class that draws nothing and reports the bytes of one file."""

    class Meter(tqdm):
        def __init__(self, *_arguments: object, initial: int = 0, **_options: object) -> None:
            super().__init__(disable=True)  # type: ignore[no-untyped-call]
            self._num_bytes = initial

        def update(self, n: float | None = 1) -> bool | None:
            self._num_bytes += int(n or 0)
            report(min(total_bytes, before_bytes + self._num_bytes), total_bytes)
            return None

        def update_transfer(self, n: float | None = 1) -> None:
            """Ignore bytes on the wire; those that reached the disk are counted."""

    return Meter


def _asked(spec: ModelSpec, question: Callable[..., Answer], *arguments: object) -> Answer:
    """Return the Hub's answer, or say in the user's words why there is none."""
    try:
        return question(*arguments)
    except (RepositoryNotFoundError, GatedRepoError) as error:
        raise ModelError(
            f"The Hub has no public model {spec.hub_id}, or it is closed to you. If you have "
            "access, log in with `hf auth login` and try again."
        ) from error
    except HfHubHTTPError as error:
        if error.response.status_code < SERVER_ERROR:
            raise ModelError(f"The Hub refused {spec.hub_id}: {error}") from error
        raise UnreachableError(_unreachable(error)) from error
    except (
        httpx2.TransportError,
        OfflineModeIsEnabled,
        RevisionResolutionError,
        LocalEntryNotFoundError,
    ) as error:
        raise UnreachableError(_unreachable(error)) from error
    except OSError as error:
        raise ModelError(f"{spec.hub_id} could not be written to the cache: {error}") from error


def _unreachable(error: Exception) -> str:
    """Say that the Hub cannot be reached, with the first line of the reason."""
    reason = str(error).strip().split("\n", 1)[0][:200] or type(error).__name__
    return (
        "The model hub cannot be reached; the models at hand work as they are. "
        f"Try again when this machine is online. ({reason})"
    )
