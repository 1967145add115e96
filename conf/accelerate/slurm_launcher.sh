#!/bin/bash
# Runs a training command on every node of a SLURM job: RAO_KEDRO_LAUNCHER=conf/accelerate/slurm_launcher.sh kedro run ...
# Its arguments are `python -m accelerate.commands.launch`, to which each node adds its rank, and their options.
set -euo pipefail
FIRST_NODE=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export FIRST_NODE
exec srun --ntasks-per-node=1 bash -c \
    'exec "$1" "$2" "$3" --machine_rank "$SLURM_NODEID" --main_process_ip "$FIRST_NODE" "${@:4}"' on_node "$@"
