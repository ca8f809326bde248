"""Measured comparisons; each script owns a section of RESULTS.md."""
