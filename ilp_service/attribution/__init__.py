"""Weighs all evidence together: which cause kept each sample from being learned, and when nobody can say."""
