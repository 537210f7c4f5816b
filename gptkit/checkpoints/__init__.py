"""Weights on disk: opened only by `safe_load`, written only by `save`."""
