#!/usr/bin/env bash
# Written by umt-launch. One node: DeepSpeed's launcher makes its $ranks_per_node ranks; srun runs this once a node, so
# that no ssh is needed. The host file is made from the allocation.
exec $python -m deepspeed.launcher.runner --hostfile=$hostfile \
  --no_ssh --node_rank="$$SLURM_PROCID" --master_addr="$$MASTER_ADDR" --master_port="$$MASTER_PORT" \
  --no_python --no_local_rank $command
