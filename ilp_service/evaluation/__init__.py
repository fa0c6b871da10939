"""The multiple-choice and the generation view of every sample, for the tuned model and its base."""
