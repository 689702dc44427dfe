"""``hydra/sweeper=optuna``: a search as a fan-out that goes on where its last trials have ended."""
