"""The Kubernetes files: each object by its schema, and all of them in step with what they run.

Core objects and pods are checked by Kubernetes' own schemas, and an unknown field is an error. The
RayService is checked by tests/rayservice_schema.py, and by KubeRay's own definition where
KUBERAY_CRD names a copy: ``KUBERAY_CRD=ray.io_rayservices.yaml pytest tests/unit/test_kuberay.py``.
"""

from __future__ import annotations

import copy
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from pydantic import BaseModel

from deployments.arguments import AppArgs, Untuned
from facegraph import config
from facegraph.config import IngressTuning, from_environment
from tests.cluster_files import (
    KUBERAY,
    ROOT,
    SECRETS,
    manifest,
    manifests,
    node_environment,
    rayservice,
)
from tests.rayservice_schema import RAYSERVICE

pytestmark = pytest.mark.unit

KUBERNETES = "1.37"

MANIFESTS = manifests()
SPEC = rayservice()
CLUSTER = SPEC["rayClusterConfig"]
HEAD = CLUSTER["headGroupSpec"]
WORKERS = {group["groupName"]: group for group in CLUSTER["workerGroupSpecs"]}
TEMPLATES = {"head": HEAD["template"]} | {k: group["template"] for k, group in WORKERS.items()}
DOCKERFILE = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()

TUNING: dict[str, type[BaseModel]] = {
    name: getattr(config, f"{name.capitalize()}Tuning")
    for name in ("ingress", "detector", "embedder", "matcher", "segmenter", "captioner", "jobs")
} | {"recognizer": Untuned}

DIFFERENCES = {
    "http_options.host": "reached from other pods",
    "args.resources.ingress.num_cpus": "pods are filled by whole cores",
    "args.resources.detector.num_cpus": "a core each",
    "args.resources.embedder.num_cpus": "a core each",
    "args.resources.embedder.num_gpus": "two, and the others' share, fit one GPU",
    "args.resources.matcher.num_cpus": "a core each",
    "args.resources.segmenter.num_cpus": "a core each",
    "args.resources.captioner.num_cpus": "a core each",
    "args.resources.recognizer.num_cpus": "a pod's core holds four",
    "args.resources.jobs.num_cpus": "it waits for the others",
    "args.resources.evaluation.num_cpus": "so that pods come for them",
    "ingress.num_replicas": "two, of what nobody can do without",
    "detector.num_replicas": "comes with the load",
    "detector.autoscaling_config": "comes with the load",
    "embedder.num_replicas": "comes with the load",
    "embedder.autoscaling_config": "comes with the load",
    "matcher.num_replicas": "two",
    "jobs.user_config.evaluations": "what pods are there for",
}
"""All in which the cluster's Serve configuration differs from the shipped one."""


def _containers() -> list[tuple[str, dict[str, Any]]]:
    """Every container with the name of its pod; the first of each pod is the one that matters."""
    return [
        (pod, container)
        for pod, template in TEMPLATES.items()
        for part in ("containers", "initContainers")
        for container in template["spec"].get(part, [])
    ]


def _check_pod(template: dict[str, Any]) -> None:
    pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {}, "template": template}
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(document, id=f"{name}-{document['kind']}")
        for name, document in MANIFESTS
        if document["kind"] != "RayService"
    ],
)
def test_kubernetes_knows_every_field_of_the_core_objects(document: dict[str, Any]) -> None:
    assert kubernetes_validate.validate(document, KUBERNETES, strict=True) == KUBERNETES


@pytest.mark.parametrize("pod", TEMPLATES)
def test_kubernetes_knows_every_field_of_the_pods(pod: str) -> None:
    _check_pod(TEMPLATES[pod])


def test_the_autoscaler_s_container_is_one() -> None:
    options = CLUSTER["autoscalerOptions"]
    extra = {key: options[key] for key in ("resources", "securityContext")}
    _check_pod({"spec": {"containers": [{"name": "autoscaler", "image": "a", **extra}]}})


def test_the_rayservice_says_only_what_kuberay_documents() -> None:
    jsonschema.validate(manifest("RayService", "facegraph"), RAYSERVICE)


@pytest.mark.parametrize(
    ("path", "wrong", "reason"),
    [
        (("spec", "serveConfig"), "", "an older KubeRay's name"),
        (("spec", "upgradeStrategy", "type"), "Rolling", "a Deployment's strategy"),
        (("spec", "rayClusterConfig", "gcsFaultTolerance"), {}, "misspelt"),
        (("spec", "rayClusterConfig", "autoscalerOptions", "idleTimeout"), 1, "without its unit"),
        (("spec", "rayClusterConfig", "headGroupSpec", "rayStartParams", "num-cpus"), 0, "no text"),
        (("spec", "rayClusterConfig", "workerGroupSpecs", 0, "minWorkers"), 1, "ray up's name"),
        (
            ("spec", "rayClusterConfig", "gcsFaultToleranceOptions", "redisPassword", "value"),
            "secret",
            "written down",
        ),
    ],
)
def test_a_slip_in_the_rayservice_is_refused(
    path: tuple[str | int, ...], wrong: Any, reason: str
) -> None:
    document = copy.deepcopy(manifest("RayService", "facegraph"))
    part: Any = document
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = wrong
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, RAYSERVICE)


def test_a_slip_in_a_pod_is_refused() -> None:
    template = copy.deepcopy(TEMPLATES["cpu"])
    probe = template["spec"]["containers"][0]["readinessProbe"]
    probe["failureTreshold"] = probe.pop("failureThreshold")
    with pytest.raises(kubernetes_validate.ValidationError, match="failureTreshold"):
        _check_pod(template)


def test_kuberay_s_own_crd_accepts_the_rayservice() -> None:
    if (path := os.environ.get("KUBERAY_CRD")) is None:
        pytest.skip("KUBERAY_CRD names no copy of KubeRay's ray.io_rayservices.yaml")
    definition = yaml.safe_load(Path(path).read_text())
    (version,) = [v for v in definition["spec"]["versions"] if v["name"] == "v1"]
    schema = version["schema"]["openAPIV3Schema"]
    _refuse_unknown(schema["properties"]["spec"])
    jsonschema.validate(manifest("RayService", "facegraph"), schema)


def _refuse_unknown(schema: Any) -> None:
    """As ``kubectl --validate=strict`` does: what the CRD does not name would be dropped."""
    if isinstance(schema, dict):
        if "properties" in schema and "x-kubernetes-preserve-unknown-fields" not in schema:
            schema.setdefault("additionalProperties", False)
        for part in schema.values():
            _refuse_unknown(part)
    elif isinstance(schema, list):
        for part in schema:
            _refuse_unknown(part)


def test_serve_runs_as_shipped_but_for_what_is_said() -> None:
    shipped = dict(_settings(yaml.safe_load((ROOT / "serve_config.yaml").read_text())))
    here = dict(_settings(yaml.safe_load(SPEC["serveConfigV2"])))
    differing = {key for key in shipped | here if shipped.get(key) != here.get(key)}
    assert differing == set(DIFFERENCES)


def _settings(document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every setting that is in force, by its path: what is not written has its default."""
    (application,) = document.pop("applications")
    args = AppArgs.model_validate(application.pop("args", {})).model_dump()
    resources = args.pop("resources")
    yield from _flat(document)
    yield from _flat({"args": args, "resources": {}})
    yield from _flat({"args": {"resources": resources}})
    for deployment in application.pop("deployments"):
        name = deployment.pop("name")
        tuning = TUNING[name].model_validate(deployment.pop("user_config", {}))
        yield from ((f"{name}.{key}", value) for key, value in deployment.items())
        yield from _flat({name: {"user_config": tuning.model_dump()}})
    yield from _flat(application)


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value


def test_the_pods_have_a_cluster_s_environment(tmp_path: Path) -> None:
    """KubeRay gives the token; the password is a secret of its own."""
    data: dict[str, str] = dict(manifest("ConfigMap", "facegraph-environment")["data"])
    expected = node_environment(tmp_path)
    assert expected.pop("RAY_AUTH_MODE") == CLUSTER["authOptions"]["mode"] == "token"
    url = data.pop("FACEGRAPH_DATABASE_URL")
    assert data == {key: value for key, value in expected.items() if key not in SECRETS}
    assert from_environment({"FACEGRAPH_DATABASE_URL": url}) == {"database_url": url}
    host = manifest("Service", "facegraph-database")["metadata"]["name"]
    assert re.fullmatch(rf"postgresql://facegraph@{host}/facegraph", url)
    for template in TEMPLATES.values():
        (container,) = template["spec"]["containers"]
        assert container["envFrom"] == [{"configMapRef": {"name": "facegraph-environment"}}]
        assert [variable["name"] for variable in container["env"]] == ["PGPASSWORD"]


def test_secrets_are_named_and_never_written() -> None:
    text = "".join(path.read_text() for path in KUBERAY.glob("*.yaml"))
    assert {document["kind"] for _, document in MANIFESTS}.isdisjoint({"Secret"})
    named = set(re.findall(r"secretKeyRef: \{name: ([\w-]+), key: password\}", text))
    created = set(re.findall(r"create secret generic ([\w-]+)", text))
    assert named == created == {"facegraph-database", "facegraph-redis"}
    assert not re.search(r"(?i)password: *['\"]?\w", re.sub(r"#.*", "", text))


def test_redis_reads_its_password_from_its_input(tmp_path: Path) -> None:
    """Run with a fake redis-server, in the place of the shell: it gets Kubernetes' signals."""
    pods = manifest("StatefulSet", "facegraph-redis")["spec"]["template"]["spec"]
    (container,) = pods["containers"]
    fake = tmp_path / "redis-server"
    fake.write_text('#!/bin/sh\necho "$$ $*"\ncat\n')
    fake.chmod(0o755)
    assert "args" not in container
    with subprocess.Popen(
        container["command"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "REDIS_PASSWORD": "a$b `c`"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        said, _ = process.communicate()
    assert said.splitlines() == [
        f"{process.pid} - --appendonly yes --dir /data",
        "requirepass a$b `c`",
    ]


def test_the_head_takes_no_replica_and_no_client() -> None:
    assert HEAD["rayStartParams"]["num-cpus"] == "0"
    assert SPEC["excludeHeadPodFromServeSvc"] is True


def test_the_head_may_be_lost() -> None:
    address = CLUSTER["gcsFaultToleranceOptions"]["redisAddress"]
    service = manifest("Service", "facegraph-redis")
    assert address == f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"


def test_pods_are_alive_by_ray_and_ready_by_the_door() -> None:
    agent = {"path": "/api/healthz", "port": 52365}
    for pod, template in TEMPLATES.items():
        (container,) = template["spec"]["containers"]
        door = {"path": "/-/healthz", "port": 8000}
        assert container["livenessProbe"]["httpGet"] == agent
        assert container["readinessProbe"]["httpGet"] == (agent if pod == "head" else door)
    served = yaml.safe_load(SPEC["serveConfigV2"])["http_options"]["port"]
    for group in WORKERS.values():
        (container,) = group["template"]["spec"]["containers"]
        assert container["ports"] == [{"name": "serve", "containerPort": served}]


def test_pods_outlast_a_lost_head_and_end_after_their_requests() -> None:
    for pod, template in TEMPLATES.items():
        (container,) = template["spec"]["containers"]
        probe = container["livenessProbe"]
        assert probe["failureThreshold"] * probe["periodSeconds"] >= 600, "KubeRay's own patience"
        if pod != "head":
            drain, requests = 30, IngressTuning().request_timeout_s
            assert template["spec"]["terminationGracePeriodSeconds"] > drain + requests


def test_images_are_the_dockerfile_s_targets_and_volumes() -> None:
    targets = set(re.findall(r"^FROM runtime AS (\w+)$", DOCKERFILE, re.MULTILINE))
    images = {pod: {c["image"] for at, c in _containers() if at == pod} for pod in TEMPLATES}
    assert images == {
        "head": {"registry.example.com/facegraph:cpu"},
        "cpu": {"registry.example.com/facegraph:cpu"},
        "gpu": {"registry.example.com/facegraph:cuda"},
    }
    assert targets == {"cpu", "cuda"}
    for pod, container in _containers():
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounted == ({"/tmp", "/data"} if pod == "head" else {"/tmp", "/data", "/models"})
        declared = {volume["name"] for volume in TEMPLATES[pod]["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == declared
    assert 'VOLUME ["/data", "/models"]' in DOCKERFILE


def test_ray_is_the_one_of_the_image() -> None:
    (pinned,) = re.findall(r"^ray==([\d.]+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert CLUSTER["rayVersion"] == pinned


def test_every_pod_is_closed() -> None:
    (user,) = re.findall(r"^USER (\d+):\1$", DOCKERFILE, re.MULTILINE)
    specs = [template["spec"] for template in TEMPLATES.values()]
    for spec in specs:
        assert spec["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": int(user),
            "runAsGroup": int(user),
            "fsGroup": int(user),
            "seccompProfile": {"type": "RuntimeDefault"},
        }
    stores = [
        document["spec"]["template"]["spec"] for _, document in MANIFESTS if _is_store(document)
    ]
    for spec in specs + stores:
        for container in spec["containers"] + spec.get("initContainers", []):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert set(container["resources"]) == {"requests", "limits"}
            memory = [container["resources"][part]["memory"] for part in ("requests", "limits")]
            assert memory[0] == memory[1] or container["name"] == "models"
    for spec in [TEMPLATES["cpu"]["spec"], TEMPLATES["gpu"]["spec"], *stores]:
        assert spec["automountServiceAccountToken"] is False, "only the autoscaler asks Kubernetes"


def _is_store(document: dict[str, Any]) -> bool:
    return bool(document["kind"] == "StatefulSet")


def test_the_first_pods_hold_the_first_replicas_and_any_pod_any_replica() -> None:
    (application,) = yaml.safe_load(SPEC["serveConfigV2"])["applications"]
    resources = dict(AppArgs.model_validate(application["args"]).resources)
    cores = {
        name: int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
        for name, group in WORKERS.items()
    }
    assert max(part.num_cpus for part in resources.values()) <= min(cores.values())
    wanted = sum(
        resources[deployment["name"]].num_cpus
        * deployment.get(
            "num_replicas", deployment.get("autoscaling_config", {}).get("min_replicas")
        )
        for deployment in application["deployments"]
    )
    assert wanted <= cores["cpu"] * WORKERS["cpu"]["minReplicas"]
    most = WORKERS["cpu"]["maxReplicas"] * cores["cpu"]
    assert wanted < most, "there is something to grow into"


def test_gpus_are_there_only_where_they_are_asked_for() -> None:
    gpu = WORKERS["gpu"]
    assert (gpu["minReplicas"], gpu["maxReplicas"]) == (0, 0)
    (container,) = gpu["template"]["spec"]["containers"]
    for part in ("requests", "limits"):
        assert container["resources"][part]["nvidia.com/gpu"] == "1"
        assert "nvidia.com/gpu" not in str(TEMPLATES["cpu"])


def test_what_is_let_in_and_what_may_be_taken_away() -> None:
    ray = manifest("NetworkPolicy", "facegraph-ray")["spec"]
    everyone = {"matchExpressions": [{"key": "ray.io/cluster", "operator": "Exists"}]}
    assert ray["podSelector"] == everyone
    inside, operator, clients = ray["ingress"]
    assert inside == {"from": [{"podSelector": everyone}]}
    assert [rule["port"] for rule in operator["ports"]] == [8265, 52365, 8000]
    assert [rule["port"] for rule in clients["ports"]] == [8000]
    stores = manifest("NetworkPolicy", "facegraph-stores")["spec"]
    (rule,) = stores["ingress"]
    assert rule["from"] == [{"podSelector": everyone}]
    (expression,) = stores["podSelector"]["matchExpressions"]
    kept = {document["metadata"]["name"] for _, document in MANIFESTS if _is_store(document)}
    assert set(expression["values"]) == kept
    budget = manifest("PodDisruptionBudget", "facegraph-workers")["spec"]
    assert budget["maxUnavailable"] == 1 < WORKERS["cpu"]["minReplicas"]


@pytest.mark.parametrize("name", ["facegraph-database", "facegraph-redis"])
def test_a_store_is_found_by_its_service(name: str) -> None:
    service, pods = manifest("Service", name)["spec"], manifest("StatefulSet", name)["spec"]
    assert pods["serviceName"] == name
    assert service["selector"] == pods["selector"]["matchLabels"]
    assert service["selector"] == pods["template"]["metadata"]["labels"]
    (container,) = pods["template"]["spec"]["containers"]
    (port,) = service["ports"]
    assert container["ports"] == [{"name": port["name"], "containerPort": port["port"]}]


def test_postgresql_is_the_one_of_compose() -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "docker" / "compose.yaml").read_text())
    pods = manifest("StatefulSet", "facegraph-database")["spec"]["template"]["spec"]
    assert pods["containers"][0]["image"] == compose["services"]["database"]["image"]
