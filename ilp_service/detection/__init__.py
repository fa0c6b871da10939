"""The criterion of 'unlearned'."""
