"""Kedro pipelines: thin nodes that call one function of a lower layer each."""
