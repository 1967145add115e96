"""Checks a run before any of it is done, and shows its plan: rows, tokens, steps, memory, disk, time.

A check is a small function of parameters and files that yields a sentence for each problem. No check loads a model.
Lengths that are unknown at the start are checked once the data are tokenised; other unknowns are left to the node.
"""
