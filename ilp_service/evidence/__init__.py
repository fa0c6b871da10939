"""Evidence: what the causes say about every unlearned sample."""
