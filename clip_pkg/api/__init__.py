"""What Python programs use: results as data frames, training as a scikit-learn estimator."""
