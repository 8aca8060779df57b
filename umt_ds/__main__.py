"""`python -m umt_ds …`: what torchrun, deepspeed and srun start."""

from umt_ds.cli import main

if __name__ == "__main__":
    main()
