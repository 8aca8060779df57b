"""Typed run configuration: `load_run("stage1/b16_k710", ["batch.micro=32"])`."""
