"""Studies of the paper: a pipeline each."""
