"""Rewards of responses: rules and annotation with a trained reward model."""
