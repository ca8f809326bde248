"""Numbers across folds and configs, from the files that training wrote. No torch."""
