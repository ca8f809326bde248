"""What will be trained on what: images and their checks, folds, class texts, tasks. No torch."""
