"""Trained models for other programs: what a run, a file or a folder holds, written as another library loads it."""
