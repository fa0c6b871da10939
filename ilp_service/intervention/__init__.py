"""Remedies as controlled experiments: arms, placebos, controls, effects with intervals, price and damage."""
