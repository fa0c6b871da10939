"""Diagnosis of incomplete learning in supervised fine-tuning (arXiv 2604.10079)."""

__version__ = "0.1.0"
