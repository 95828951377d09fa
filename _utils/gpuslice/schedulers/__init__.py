"""Schedulers of jobs: what a node has for them, and taking it out of use around a change. They are handed the engine."""
