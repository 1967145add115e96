"""Reward Alignment Optimization as a Kedro project."""
