"""Asking knowledge sources and judges: which of them, what came back, what it cost, and no training sample among it."""
