"""A project that nothing was run in."""

import pytest
from projects import open_project


@pytest.fixture
def project(tmp_path):
    """A project of its own, which is the current directory; nothing is written into the real data folder."""
    with open_project(tmp_path) as directory:
        yield directory
