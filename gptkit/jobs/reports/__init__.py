"""What came of a job: its output read back, counted, and its cells side by side."""
