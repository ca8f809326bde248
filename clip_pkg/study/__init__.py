"""One image set and its configs: manifest, checks, splits, class texts, tasks. No torch."""
