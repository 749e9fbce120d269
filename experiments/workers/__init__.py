"""Trains the cells of a grid with several workers: processes on this machine or jobs on a cluster."""
