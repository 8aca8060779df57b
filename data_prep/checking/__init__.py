"""What can be said of a finished set: whether it is sound, what is in it, how it looks."""
