"""What the tests of this folder share: the device, and models for it.

They need CUDA. To see on a machine without it that their code runs: RAO_KEDRO_GPU_TESTS_ON=cpu.
"""

import os

import pytest
import torch
from accelerate.state import AcceleratorState
from groups import write_groups

from rao_kedro.models.tiny import build_tiny_checkpoint

DEVICE = torch.device(os.environ.get("RAO_KEDRO_GPU_TESTS_ON", "cuda"))
WIDE = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.1}


@pytest.fixture(autouse=True)
def device():
    """Where these tests compute; accelerate forgets the precision of the test before."""
    if DEVICE.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    AcceleratorState._reset_state(reset_partial_state=True)
    return DEVICE


@pytest.fixture(scope="session")
def wide_checkpoint(tmp_path_factory):
    """A tiny checkpoint with heads of 64, which the variable-length kernel computes; `tiny_checkpoint` has 8."""
    return build_tiny_checkpoint(tmp_path_factory.mktemp("wide") / "model", **WIDE)


@pytest.fixture
def groups_path(tmp_path):
    return write_groups(tmp_path / "groups.parquet", 12)
