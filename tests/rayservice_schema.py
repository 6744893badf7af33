"""What a RayService of KubeRay 1.6 may say, as far as ours says anything; all else is refused.

Written from the documented fields of ``ray.io/v1``. Pods are left to Kubernetes' own schema.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
ANYTHING: Schema = {"type": "object"}


def closed(required: list[str] | None = None, **properties: Schema) -> Schema:
    """An object with these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": required or [],
        "additionalProperties": False,
    }


def choice(*values: str) -> Schema:
    return {"enum": list(values)}


START: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
"""Flags of ``ray start``: all of them texts, numbers too."""

SECRET = closed(
    ["valueFrom"],
    valueFrom=closed(["secretKeyRef"], secretKeyRef=closed(["name", "key"], name=TEXT, key=TEXT)),
)

HEAD = closed(
    ["rayStartParams", "template"],
    rayStartParams=START,
    template=ANYTHING,
    serviceType=choice("ClusterIP"),
)

WORKERS = closed(
    ["groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"],
    groupName=TEXT,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    idleTimeoutSeconds=COUNT,
    rayStartParams=START,
    template=ANYTHING,
)

AUTOSCALER = closed(
    version=choice("v1", "v2"),
    upscalingMode=choice("Default", "Aggressive", "Conservative"),
    idleTimeoutSeconds=COUNT,
    resources=ANYTHING,
    securityContext=ANYTHING,
)

CLUSTER = closed(
    ["rayVersion", "headGroupSpec", "workerGroupSpecs"],
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    authOptions=closed(mode=choice("token", "disabled"), secretName=TEXT),
    gcsFaultToleranceOptions=closed(
        ["redisAddress"], redisAddress=TEXT, redisUsername=SECRET, redisPassword=SECRET
    ),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=AUTOSCALER,
    headGroupSpec=HEAD,
    workerGroupSpecs={"type": "array", "items": WORKERS, "minItems": 1},
)

RAYSERVICE = closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion=choice("ray.io/v1"),
    kind=choice("RayService"),
    metadata=closed(["name"], name=TEXT, labels=ANYTHING, annotations=ANYTHING),
    spec=closed(
        ["serveConfigV2", "rayClusterConfig"],
        serveConfigV2=TEXT,
        rayClusterConfig=CLUSTER,
        upgradeStrategy=closed(["type"], type=choice("NewCluster", "None")),
        rayClusterDeletionDelaySeconds=COUNT,
        excludeHeadPodFromServeSvc=FLAG,
    ),
)
