"""Data sets: what a sample is, reading it from a file, its tokens, and its near neighbours."""
