"""For Python programs: results as data frames, training as a scikit-learn estimator."""
