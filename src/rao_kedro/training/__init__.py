"""Training: one loop under `accelerate launch`, and its tasks. Nodes start a task with `rao_kedro.workers.launch`."""
