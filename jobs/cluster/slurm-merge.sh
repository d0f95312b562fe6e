#!/bin/bash
# Merges the shards' parts and finishes the job. slurm-submit.sh submits it after the array, with OUT and NAME set.
#SBATCH --job-name=convscope-merge
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:1
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=convscope-merge-%j.log

# Dense layers round differently with another number of threads, so all shards use the same number on every node.
export TF_NUM_INTRAOP_THREADS="${SLURM_CPUS_PER_TASK:-8}"

code=0
srun "${CONVSCOPE:-convscope}" merge "$OUT/$NAME" || code=$?

if [ "$code" -eq 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "${TURNS:-100}" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
