"""How siblings run as SLURM jobs: what is asked of SLURM, submitted, waited for, and done inside a job."""
