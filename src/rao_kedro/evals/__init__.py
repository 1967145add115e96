"""Measures models: scores with intervals. What they are measured on comes from `generation`, `judges` and `rewards`."""
