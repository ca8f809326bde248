"""Configs: text → checked, frozen `RunConfig`. Nothing here imports torch."""
