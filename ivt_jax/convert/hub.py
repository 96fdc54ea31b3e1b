"""Exported folders on the Hugging Face hub: fetched by commit, pushed whole."""

import re
from pathlib import Path

from ivt_jax.convert.exported import NEEDED
from ivt_jax.errors import UserError

SCHEME = "hf://"
_NAME = r"\w[\w.-]*/\w[\w.-]*"
_ADDRESS = re.compile(rf"hf://({_NAME})@([0-9a-f]{{40}})")


def fetch(address: str) -> Path:
    """The local folder of "hf://USER/NAME@COMMIT", downloaded once into the hub's own cache.

    Only data is fetched, never code; SHA256SUMS is checked when the folder is read. The commit is
    the full hash, as a name like "main" may stand for other weights tomorrow.

    Raises:
      UserError: the address has no full commit, or the hub does not give the files.
    """
    match = _ADDRESS.fullmatch(address)
    if not match:
        raise UserError(
            f"{address} must be hf://USER/NAME@COMMIT with the 40 digits of a commit, as the "
            "page https://huggingface.co/USER/NAME/commits/main shows them"
        )
    from huggingface_hub import snapshot_download

    repository, commit = match.groups()
    try:
        folder = snapshot_download(repository, revision=commit, allow_patterns=list(NEEDED))
    except (OSError, ValueError) as error:
        raise UserError(f"{address} cannot be fetched: {error}") from error
    return Path(folder)


def push(folder: Path, repository: str) -> str:
    """Uploads a folder to the hub repository USER/NAME, private if new; returns its address.

    Raises:
      UserError: the name is no USER/NAME, or the hub refuses.
    """
    if not re.fullmatch(_NAME, repository):
        raise UserError(f"--push={repository} must be USER/NAME")
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        # Weights that find people are not published by default.
        hub.create_repo(repository, private=True, exist_ok=True)
        done = hub.upload_folder(repo_id=repository, folder_path=folder)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{repository} was not uploaded: {error}. The folder {folder} is complete; "
            "is a token there (hf auth login)?"
        ) from error
    return f"{SCHEME}{repository}@{done.oid}"
