"""Kedro's settings of this project."""

from rao_kedro.framework.config_loader import StudyConfigLoader
from rao_kedro.framework.console import ConsoleHooks
from rao_kedro.framework.context import StudyContext
from rao_kedro.framework.hooks import (
    CredentialsHooks,
    FreshnessHooks,
    LocationHooks,
    PlanHooks,
    QuarantineHooks,
)
from rao_kedro.framework.session import StudySession
from rao_kedro.framework.tracking import TrackingHooks

HOOKS = (
    CredentialsHooks(),
    LocationHooks(),
    PlanHooks(),
    QuarantineHooks(),
    FreshnessHooks(),
    TrackingHooks(),
    ConsoleHooks(),
)
DISABLE_HOOKS_FOR_PLUGINS = ("kedro_mlflow", "kedro-mlflow")  # TrackingHooks are that hook, and more
SESSION_CLASS = StudySession
CONTEXT_CLASS = StudyContext

CONFIG_LOADER_CLASS = StudyConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    # What an environment overrides is merged into the base value, not put in its place.
    "merge_strategy": {"parameters": "soft", "globals": "soft"},
}
