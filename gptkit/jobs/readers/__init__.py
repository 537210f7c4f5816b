"""Rows in: one module for each form, and `open_inputs`, which finds the one for a file."""

from gptkit.jobs.readers.inputs import Inputs, open_inputs, read_rows

__all__ = ["Inputs", "open_inputs", "read_rows"]
