"""Text generation: vLLM, and transformers where vLLM is not installed, behind one interface.

`launch.generate` is the way in from a node. Knows nothing about rewards or training.
"""

from rao_kedro.inference.generators import Completion, Generator, make_generator
from rao_kedro.inference.launch import generate
from rao_kedro.schemas.generation import GenerationSpec, SamplingParameters

__all__ = ["Completion", "GenerationSpec", "Generator", "SamplingParameters", "generate", "make_generator"]
