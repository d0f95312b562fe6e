#!/bin/sh
# Submits a job to a running Ray cluster: ray-job.sh http://HEAD:8265
# Change the spec, the output folder and the number of workers. The cluster's machines need convscope with the
# extra `cluster`, and must see the spec, the data and the output folder under the same paths.
# Submitted again after a failure, the job resumes from its saved state.
set -eu

ray job submit \
    --address "${1:?name the address of the cluster's dashboard, such as http://head:8265}" \
    --runtime-env "$(dirname "$0")/ray-runtime.yaml" \
    -- convscope run /shared/jobs/my-photos.toml --out /shared/results --engine ray --workers 4
