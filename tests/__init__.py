"""Tests; what several parts share is in ``tests.tiny`` and ``tests/conftest.py``."""
