"""Trains one fold: `run_fold(FoldTask) -> FoldResult`."""
