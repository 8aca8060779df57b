"""What published evaluations and trainings ask of the clips of a corpus, read from the files that they ship."""
