"""Checkpoints that lie elsewhere: from a reference to files on this machine, fetched once and checked."""
