"""Downstream tasks through lm-evaluation-harness: MMLU, GSM8K, ARC, MathQA and SocialIQA."""
