"""Text generation: vLLM, and transformers where vLLM is not installed, behind one interface.

`launch.generate` is the way in from a node. Knows nothing about rewards or training.
"""

from rao_kedro.config.generation import GenerationSpec, SamplingParameters
from rao_kedro.generation.base import Completion, Generator
from rao_kedro.generation.generators import make_generator
from rao_kedro.generation.launch import generate

__all__ = ["Completion", "GenerationSpec", "Generator", "SamplingParameters", "generate", "make_generator"]
