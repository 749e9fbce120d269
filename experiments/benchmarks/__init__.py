"""What `experiments.benchmark` measures with."""
