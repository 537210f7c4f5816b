"""Data, the loop and its recipes."""
