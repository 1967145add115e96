"""Forward passes without gradients: log-probs and rewards of groups of responses, on one process or on many."""
