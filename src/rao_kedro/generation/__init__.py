"""Text generation: vLLM, and transformers where vLLM is not installed, behind one interface.

Nodes launch `generation.worker` with a `GenerationSpec`. Knows nothing about rewards or training.
"""

from rao_kedro.config.generation import GenerationSpec, SamplingParameters
from rao_kedro.generation.base import Completion, Generator
from rao_kedro.generation.generators import make_generator

__all__ = ["Completion", "GenerationSpec", "Generator", "SamplingParameters", "make_generator"]
