"""What `load-tests/compare` is made of; the standard library and nothing else."""
