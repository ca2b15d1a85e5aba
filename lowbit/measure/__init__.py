"""What an artifact sees, how fast it runs and what it runs on: knows runtimes, not quantizers."""
