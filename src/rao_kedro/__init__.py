"""Reward Alignment Optimization as a Kedro project."""

from importlib.metadata import version

__version__ = version("rao_kedro")
