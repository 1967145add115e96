"""What training can learn: a worker module per task."""
