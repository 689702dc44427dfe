"""Checkpoints on disk: written completely or not at all, read only if whole."""
