"""Batch jobs: rows to requests to rows."""
