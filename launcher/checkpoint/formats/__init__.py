"""Checkpoints that others wrote: told apart, looked into without loading, read without executing anything."""
