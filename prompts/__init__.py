"""YAML jobs, each with a small sample input."""
