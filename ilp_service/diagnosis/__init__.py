"""Puts the steps of a diagnosis in order; the only place that knows the order."""
