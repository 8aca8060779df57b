"""How to run: the loop, DeepSpeed, checkpoints, stopping, reporting. Sees tasks only through `protocol`."""
