"""`umt import`: what a weight file is, how much of it the model here uses, and a folder of ours made of it."""
