"""The scoring engine: log-probabilities and continuations in batches, and chunks of results that survive a kill."""
