"""Errors that a caller may want to catch.

Every message names the file, row, key or parameter, what was expected, what was found and what to do.
"""


class RaoKedroError(Exception):
    """Base of every error that this project raises on purpose."""


class DataError(RaoKedroError):
    """A dataset, file or row does not have the required form."""


class ModelError(RaoKedroError):
    """A model directory or checkpoint cannot be used."""


class ParameterError(RaoKedroError, ValueError):
    """A parameter has an unknown name, a wrong type or an impossible value."""


class TrainingError(RaoKedroError):
    """Training could not start, or was stopped since its result would be wrong."""


class BusyError(RaoKedroError):
    """Another run uses a directory that only one run may use at a time."""


class GenerationError(RaoKedroError):
    """Text generation, a judge or a served model failed."""


class PlanError(ParameterError, DataError, ModelError):
    """The plan of a run has errors, found before anything runs; the message lists them, one a line."""
