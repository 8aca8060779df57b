"""Device maths with a plain torch reference each; nothing here knows of models, tasks or data.

A kernel is a folder. Its `__init__` is the door: shapes, dtypes, and who runs (`backend.py` decides, UMT_KERNELS says
otherwise). `reference.py` is the specification, plain torch for any device and dtype. `triton.py` is optional speed
with its own gradient; its launches can be compiled where no GPU is (`launch.py`, `umt bench kernels --compile`).
"""
