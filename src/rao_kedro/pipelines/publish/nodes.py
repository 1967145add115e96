"""Nodes of publishing."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from rao_kedro.config.publish import PublishParameters
from rao_kedro.config.workers import WorkerParameters
from rao_kedro.errors import ParameterError, RaoKedroError
from rao_kedro.files import replacing_directory, write_text

logger = logging.getLogger(__name__)


def assemble_model(policy: Path, model_card: str, workers: WorkerParameters, *, run: str) -> Path:
    """Return a folder with the policy's files and its model card as README.md."""
    folder = workers.workspace("publish") / run
    with replacing_directory(folder) as partial:
        shutil.copytree(policy, partial, copy_function=_link_or_copy, dirs_exist_ok=True)
        write_text(partial / "README.md", model_card)
    return folder


def push(published_model: Path, publish: PublishParameters, *, run: str) -> dict[str, Any]:
    """Push a folder to the hub, if the parameters say so.

    Returns:
        The repository, the sizes of the files in bytes, whether they were pushed, and the commit's address.

    Raises:
        ParameterError: There is no token.
        RaoKedroError: The hub refused, or cannot be reached.
    """
    repository = publish.repository_of(run)
    files = {str(path.relative_to(published_model)): path.stat().st_size for path in sorted(_files(published_model))}
    report = {"repository": repository, "files": files, "pushed": False, "commit": None}
    if not publish.push:
        logger.info(
            "%s: %d files, %.2f GB, are ready in %s; publish.push=true pushes them to %s",
            run,
            len(files),
            sum(files.values()) / 1e9,
            published_model,
            repository or "publish.repository",
        )
        return report
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if get_token() is None:
        raise ParameterError(
            "publish.push is true, but there is no token of the hub: set HF_TOKEN, or api_keys.HF_TOKEN in "
            "conf/local/credentials.yml"
        )
    assert repository is not None  # PublishParameters sees to that
    api = HfApi(library_name="rao_kedro")
    try:
        api.create_repo(repository, private=publish.private, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, folder_path=published_model, commit_message=f"Publish {run}")
    except (HfHubHTTPError, OfflineModeIsEnabled, ConnectionError) as error:
        raise RaoKedroError(f"{run} could not be pushed to {repository}: {error}") from error
    return report | {"pushed": True, "commit": str(commit.commit_url)}


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
