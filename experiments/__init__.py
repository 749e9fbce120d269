"""Command line tools that join `memrl` and `envs`; each is started with `python -m experiments.NAME`."""
