"""Benchmarks of reward models, scored as their authors score them."""
