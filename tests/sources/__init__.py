"""Checkpoints that lie elsewhere."""
