#!/bin/sh
# Submits a job to a Ray cluster that is running already: ray-job.sh http://HEAD:8265
# Change: the spec, the results' folder, the number of workers. The cluster's machines have convscope with the
# extra `cluster`, and see the spec, the data and the results' folder under the same paths.
# Submitted again after a failure, the job goes on from what was saved.
set -eu

ray job submit \
    --address "${1:?name the address of the cluster's dashboard, such as http://head:8265}" \
    --runtime-env "$(dirname "$0")/ray-runtime.yaml" \
    -- convscope run /shared/jobs/my-photos.toml --out /shared/results --engine ray --workers 4
