#!/bin/bash
# One job over many nodes: submits an array of shards, and a merge that waits for all of them.
#
#     bash slurm-submit.sh SPEC OUT SHARDS [WORDS OF SBATCH...]
#
# SPEC is a job's TOML file, or the name of a shipped one, OUT a folder that all nodes share, or an address such as s3://bucket/results.
# Further arguments, such as --partition=gpu, go to both jobs. Submit again to resume.
# From the environment: CONVSCOPE, the command, if it is not on the path; OPTIONS, more options for `convscope run`;
# TURNS, how often a job that ran out of time is queued again (100).
set -euo pipefail

if [ "$#" -lt 3 ]; then
    echo "usage: bash $0 SPEC OUT SHARDS [WORDS OF SBATCH...]" >&2
    exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
export SPEC=$1 OUT=$2 SHARDS=$3
shift 3
# The job's folder is OUT/name, with the name that stands in the spec; those that come with convscope lie above this script.
file=$SPEC
if [ ! -e "$file" ]; then
    file="$here/../$SPEC.toml"
fi
if [ ! -f "$file" ]; then
    echo "there is no spec $SPEC" >&2
    exit 2
fi
NAME=$(sed -nE "s/^name *= *[\"']([^\"']+)[\"'].*/\1/p" "$file" | head -n 1)
if [ -z "$NAME" ]; then
    echo "$SPEC has no line name = \"...\"" >&2
    exit 2
fi
export NAME

shards=$(sbatch --parsable --array="1-$SHARDS" "$@" "$here/slurm-shard.sh")
merge=$(sbatch --parsable --dependency="afterok:${shards%%;*}" --kill-on-invalid-dep=yes "$@" "$here/slurm-merge.sh")
echo "shards: ${shards%%;*}, merge: ${merge%%;*}"
