"""Errors, paths, atomic files and child processes; imports nothing else of the package."""
