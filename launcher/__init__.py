"""A Hydra launcher for checkpoint branching."""
