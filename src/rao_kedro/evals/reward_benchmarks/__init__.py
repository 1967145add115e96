"""Benchmarks of reward models: RewardBench, RewardBench 2, RM-Bench, JudgeBench."""
