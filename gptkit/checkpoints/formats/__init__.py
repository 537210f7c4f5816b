"""One file per format: read names and shapes, map them to ours."""
