"""What to learn: a folder for each task, and `kinds.py`, which chooses by `task.kind`."""
