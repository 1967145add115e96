"""Shared fixtures: checkpoints, tiny and real."""

from pathlib import Path

import pytest

from rao_kedro.models.tiny import build_tiny_checkpoint


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random checkpoint; do not write into it."""
    return build_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged 135M model as a checkpoint; do not write into it."""
    from rao_kedro.models.gguf import convert_gguf, find_packaged_gguf

    return convert_gguf(find_packaged_gguf(), None, tmp_path_factory.mktemp("smollm2") / "model")
