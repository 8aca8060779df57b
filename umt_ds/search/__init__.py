"""Clips as vectors of a trained model, in a file, and what a text or a video finds among them."""
