"""Judges: clients of chat servers, kept replies, costs, a vLLM server on this machine, and judges' biases."""
