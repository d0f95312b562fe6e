"""The templates in jobs/cluster are valid, fit together, and hold commands that convscope understands."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from jobs.cli import parser

FOLDER = Path(__file__).parents[2] / "jobs" / "cluster"
KUBERNETES = "1.34"

# What KubeRay's API reference (ray.io/v1) says of the fields; a set names fields, a type is a value's, POD a pod template.
POD = "PodTemplateSpec"
GROUP = {"rayStartParams": dict, "template": POD}
RAY_CLUSTER = {
    "rayVersion": str,
    "enableInTreeAutoscaling": bool,
    "headGroupSpec": GROUP | {"serviceType": str, "enableIngress": bool},
    "workerGroupSpecs": [
        GROUP
        | {
            "groupName": str,
            "replicas": int,
            "minReplicas": int,
            "maxReplicas": int,
            "idleTimeoutSeconds": int,
            "numOfHosts": int,
        }
    ],
}
RAY_JOB = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str, "generateName": str, "namespace": str, "labels": dict, "annotations": dict},
    "spec": {
        "entrypoint": str,
        "runtimeEnvYAML": str,
        "submissionMode": str,
        "backoffLimit": int,
        "activeDeadlineSeconds": int,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "suspend": bool,
        "entrypointNumCpus": float,
        "entrypointNumGpus": float,
        "entrypointResources": str,
        "clusterSelector": dict,
        "submitterPodTemplate": POD,
        "rayClusterSpec": RAY_CLUSTER,
    },
}
REQUIRED = {
    "spec": {"entrypoint", "rayClusterSpec"},
    "rayClusterSpec": {"headGroupSpec"},
    "headGroupSpec": {"rayStartParams", "template"},
    "workerGroupSpecs": {"groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"},
}


def documents(name: Any) -> Any:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


def validate(document: Any) -> None:
    """Against the schema of Kubernetes itself; unknown fields are errors."""
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


def check(value: Any, schema: Any, where: Any) -> None:
    """Hold a value of a custom resource against what its reference says."""
    if schema == POD:
        metadata = {"name": "pod", **value.get("metadata", {})}
        validate({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": value["spec"]})
    elif isinstance(schema, list):
        assert isinstance(value, list) and value, where
        for one in value:
            check(one, schema[0], where)
    elif isinstance(schema, dict):
        assert isinstance(value, dict), where
        assert set(value) <= set(schema), f"{where}: {set(value) - set(schema)} is not documented"
        assert REQUIRED.get(where, set()) <= set(value), f"{where} lacks {REQUIRED[where] - set(value)}"
        for key, one in value.items():
            check(one, schema[key], key)
    else:
        assert isinstance(value, schema) and not (schema is int and isinstance(value, bool)), f"{where} = {value!r}"


def understood(command: Any) -> Any:
    """The options of a `convscope` command line."""
    name, *arguments = shlex.split(command)
    assert name == "convscope"
    return parser().parse_args(arguments)


def test_the_rayjob_is_as_kuberay_documents_it() -> None:
    (job,) = documents("kuberay-job.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    check(job, RAY_JOB, "RayJob")


@pytest.mark.parametrize(
    ("place", "value"),
    [("entrypont", "convscope"), ("backoffLimit", "2"), ("entrypoint", None), ("rayClusterSpec", {"workerGroupSpecs": []})],
)
def test_the_check_of_the_rayjob_finds_mistakes(place: Any, value: Any) -> None:
    (job,) = documents("kuberay-job.yaml")
    job["spec"][place] = value
    with pytest.raises(AssertionError):
        check(job, RAY_JOB, "RayJob")


def test_the_check_of_the_rayjob_looks_into_its_pods() -> None:
    (job,) = documents("kuberay-job.yaml")
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["imagen"] = "x"
    with pytest.raises(kubernetes_validate.ValidationError):
        check(job, RAY_JOB, "RayJob")


def test_the_rayjob_runs_one_worker_in_each_pod_with_all_of_its_cores() -> None:
    (job,) = documents("kuberay-job.yaml")
    options = understood(job["spec"]["entrypoint"])
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    environment = yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"]
    assert options.engine == "ray" and options.workers == group["replicas"] == group["minReplicas"] == group["maxReplicas"]
    assert environment["TF_NUM_INTRAOP_THREADS"] == container["resources"]["limits"]["cpu"]
    for path in (options.spec, options.out):
        assert path.startswith(container["volumeMounts"][0]["mountPath"])


def test_the_nightly_cronjob_is_valid_and_may_create_the_rayjob() -> None:
    actual = {document["kind"]: document for document in documents("kuberay-nightly.yaml")}
    assert set(actual) == {"ServiceAccount", "Role", "RoleBinding", "CronJob"}
    for document in actual.values():
        validate(document)
    pod = actual["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    *kubectl, file = container["command"]
    assert kubectl == ["kubectl", "create", "--filename"]
    assert Path(file) == Path(container["volumeMounts"][0]["mountPath"]) / "kuberay-job.yaml"
    assert actual["Role"]["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create"]}]
    assert {actual["RoleBinding"]["subjects"][0]["name"], actual["ServiceAccount"]["metadata"]["name"]} == {
        pod["serviceAccountName"]
    }
    assert actual["RoleBinding"]["roleRef"]["name"] == actual["Role"]["metadata"]["name"]
    (job,) = documents("kuberay-job.yaml")
    assert "generateName" in job["metadata"], "every night's job needs a name of its own"


def test_the_script_submits_what_convscope_and_ray_understand(tmp_path: Path) -> None:
    script = FOLDER / "ray-job.sh"
    ray = tmp_path / "ray"
    ray.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    ray.chmod(0o755)
    result = subprocess.run(
        ["sh", script, "http://head:8265"], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )
    submitted = result.stdout.splitlines()
    options, command = submitted[: submitted.index("--")], submitted[submitted.index("--") + 1 :]
    assert options[:4] == ["job", "submit", "--address", "http://head:8265"]
    assert understood(shlex.join(command)).engine == "ray"

    from ray.dashboard.modules.job.cli import submit
    from ray.runtime_env import RuntimeEnv

    parsed = submit.make_context("submit", [*options[2:], "--", *command], resilient_parsing=True)
    assert parsed.params["runtime_env"] == str(FOLDER / "ray-runtime.yaml") and list(parsed.params["entrypoint"]) == command
    environment = RuntimeEnv(**yaml.safe_load((FOLDER / "ray-runtime.yaml").read_text()))
    assert int(environment["env_vars"]["TF_NUM_INTRAOP_THREADS"]) > 0
    refused = subprocess.run(["sh", script], capture_output=True, text=True)
    assert refused.returncode and "name the address" in refused.stderr
