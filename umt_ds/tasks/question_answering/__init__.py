"""Question answering: a decoder writes the answer to a question about a video."""
