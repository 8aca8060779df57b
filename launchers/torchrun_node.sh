#!/usr/bin/env bash
# Written by umt-launch. One node: torchrun makes its $ranks_per_node ranks; srun runs this once a node.
exec $python -m torch.distributed.run \
  --nnodes="$$SLURM_STEP_NUM_NODES" --node-rank="$$SLURM_PROCID" --nproc-per-node=$ranks_per_node \
  --master-addr="$$MASTER_ADDR" --master-port="$$MASTER_PORT" \
  --no-python $command
