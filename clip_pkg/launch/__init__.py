"""A study from request to summary: preparation, tasks, scheduling, summaries, refit. No torch."""
