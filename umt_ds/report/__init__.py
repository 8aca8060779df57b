"""What came of a run: its page, and the comparison of two."""
