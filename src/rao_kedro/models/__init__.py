"""Models: loading and saving, chat templates and t_0, packing, log-probs. Knows nothing about training."""
