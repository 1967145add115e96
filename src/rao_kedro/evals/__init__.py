"""Measures models on held-out prompts and benchmarks: scores with intervals."""
