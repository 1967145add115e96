"""Models that are asked for judgments: clients, their cache and costs, a judge served here, and judges' biases."""
