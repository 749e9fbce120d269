"""For tools that look for a setup.py. What memrl is stands in pyproject.toml."""

from setuptools import setup

setup()
