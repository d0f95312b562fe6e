#!/bin/bash
# Scans one shard. slurm-submit.sh submits an array of these, with SPEC, OUT and SHARDS set.
#SBATCH --job-name=convscope-shard
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:1
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=convscope-shard-%A-%a.log

# Dense layers round differently with another number of threads, so all shards use the same number on every node.
export TF_NUM_INTRAOP_THREADS="${SLURM_CPUS_PER_TASK:-8}"

code=0
# shellcheck disable=SC2086  # OPTIONS are words
srun "${CONVSCOPE:-convscope}" run "$SPEC" --out "$OUT" --shard "$SLURM_ARRAY_TASK_ID/$SHARDS" ${OPTIONS:-} || code=$?

# 75: the state of the scan is saved, and the requeued task resumes from it.
if [ "$code" -eq 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "${TURNS:-100}" ]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$code"
