#!/bin/bash
# Algorithm 1 on a Slurm allocation: everything but the supervised stages on the first node, stages 0
# and 2 on one GPU of each node. Ray's own `symmetric-run` starts the cluster in the allocation, runs
# the command on the first node and stops the cluster at the end. `sbatch` it again and it goes on.
#
#SBATCH --job-name=irevla
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail

shared=${SHARED:?a folder that all nodes see}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000)) # another one for each job: allocations may share a network

srun ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_NNODES" -- \
    irevla run metaworld --out "$shared/runs/metaworld" \
    --compute.stage0 ray --compute.stage2 ray --compute.ray-address "$head:$port" \
    --compute.processes "$SLURM_NNODES" --compute.share "$shared/irevla"
