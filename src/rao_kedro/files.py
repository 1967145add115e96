"""Atomic replacement on disk: a reader sees the old thing or the new one. Imports the standard library only."""

import os
import shutil
from pathlib import Path


def replace_directory(source: Path, target: Path) -> None:
    """Rename `source` to `target`, replacing what is there."""
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)
    shutil.rmtree(old, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, beside and renamed."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)
