"""Scores of predictions and of features; `table` names every classification metric."""
