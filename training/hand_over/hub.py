"""A model folder to the Hub. The token comes from the environment only, and is never shown."""

import os
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from stentor.errors import ModelError, OptionError
from stentor.hub import is_offline
from training.hand_over.settings import REPOSITORY

TOKEN_VARIABLE = "HF_TOKEN"


def check_can_push(repository: str) -> None:
    """Refuse, before anything is written, what cannot be pushed.

    Raises:
        OptionError: no such name, no token in the environment, or the Hub is switched off.
    """
    if not REPOSITORY.fullmatch(repository):
        raise OptionError(f"A repository is called OWNER/NAME; got {repository!r:.80}.")
    if not os.environ.get(TOKEN_VARIABLE):
        raise OptionError(
            f"Set {TOKEN_VARIABLE} in the environment to a token that may write to {repository} "
            "(huggingface.co, Settings, Access Tokens)."
        )
    if is_offline():
        raise OptionError("HF_HUB_OFFLINE is set, so nothing can be pushed. Unset it.")


def push(folder: Path, repository: str, *, is_private: bool) -> str:
    """Upload a folder as one commit of a model repository; return the commit's address.

    The repository is made where there is none; an existing one keeps its visibility.

    Raises:
        OptionError: as check_can_push.
        ModelError: the Hub refused or could not be reached; the folder is still there.
    """
    check_can_push(repository)
    api = HfApi(token=os.environ[TOKEN_VARIABLE])
    try:
        api.create_repo(repository, private=is_private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message=f"Model folder {folder.name}"
        )
    except (HfHubHTTPError, OSError) as error:  # its connection errors are OSErrors, too
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"{repository} could not be pushed ({reason:.300}). The folder is {folder}; try again "
            "with the same command and --push."
        ) from error
    return str(commit.commit_url)
