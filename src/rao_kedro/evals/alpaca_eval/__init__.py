"""AlpacaEval 2 (Dubois et al. 2024): a judge prefers the model's output or the baseline's."""
