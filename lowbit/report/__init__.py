"""Reports; they read results.json and nothing else."""
