"""Kedro's settings of this project."""

from rao_kedro.hooks import CredentialsHooks, MissingInputHooks, QuarantineHooks
from rao_kedro.session import StudySession

HOOKS = (CredentialsHooks(), MissingInputHooks(), QuarantineHooks())
SESSION_CLASS = StudySession

CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    # What an environment overrides is merged into the base value, not put in its place.
    "merge_strategy": {"parameters": "soft", "globals": "soft"},
}
