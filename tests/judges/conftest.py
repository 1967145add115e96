"""Clients of chat servers wait milliseconds before they ask again."""

import openai
import pytest


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.001)
