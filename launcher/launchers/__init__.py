"""Where siblings run: this machine's pool, or SLURM; and what becomes of them there."""
