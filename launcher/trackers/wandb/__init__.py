"""Weights & Biases, by its real client."""
