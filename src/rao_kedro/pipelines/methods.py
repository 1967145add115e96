"""The methods that the alignment and evaluation pipelines run, each a top-level namespace of both."""

METHODS = ("rao", "dpo")
