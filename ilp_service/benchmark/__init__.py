"""Worlds with planted causes: ground truth for attributions (see ``docs/world.md``)."""
