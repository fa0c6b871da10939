"""Diagnoses by themselves: what is registered in MLflow is found, queued, diagnosed and shown."""
