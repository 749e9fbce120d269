"""Trains: one run, or the seeds of a cell of a grid together."""
