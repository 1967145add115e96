"""Forward passes without gradients: log-probs of responses and prompts under a model, sharded over processes."""
