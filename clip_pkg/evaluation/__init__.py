"""Numbers across folds and configs, from the files that training wrote; knows no torch."""
