"""Training: one accelerate-launched loop and its tasks. `launch.py` is the only way in from a node."""
