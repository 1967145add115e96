"""MT-Bench (Zheng et al. 2023): a judge grades a model's answers to questions of two turns."""
