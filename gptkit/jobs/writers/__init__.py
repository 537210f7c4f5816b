"""Rows out: one module for each form, and `write_rows`, which writes a file whole or not at all."""

from gptkit.jobs.writers.columns import Column, columns
from gptkit.jobs.writers.output import check_output, write_rows

__all__ = ["Column", "check_output", "columns", "write_rows"]
