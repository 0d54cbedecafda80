"""Measurements beside peers; each script writes the numbers that the docs show."""
