"""Lets a notebook fail: where Kedro's logging shows tracebacks by rich, nbmake sees no error and passes."""

from collections.abc import Generator
from pathlib import Path

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """Give the notebook's kernel logging without rich."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEDRO_LOGGING_CONFIG", str(Path(__file__).with_name("logging_of_tests.yml")))
        yield
