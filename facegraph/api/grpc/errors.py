"""A problem as a gRPC status: the code of the table, and the problem itself in the details."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from facegraph.api.grpc import facegraph_pb2 as pb
from facegraph.api.grpc.messages import fill

DOMAIN = "facegraph"

MAX_TEXT = 500
"""Characters of a sentence: trailers end at 8 KiB, and those beyond ASCII take nine bytes."""
MAX_DETAILS_BYTES = 4096

_Code = grpc.StatusCode

BY_CODE: Mapping[str, grpc.StatusCode] = {
    "timeout": _Code.DEADLINE_EXCEEDED,
    "collection_exists": _Code.ALREADY_EXISTS,
    "subject_exists": _Code.ALREADY_EXISTS,
    "collection_not_empty": _Code.FAILED_PRECONDITION,
    "contract_mismatch": _Code.FAILED_PRECONDITION,
}
"""Where the HTTP status says too little."""

BY_STATUS: Mapping[int, grpc.StatusCode] = {
    400: _Code.INVALID_ARGUMENT,
    401: _Code.UNAUTHENTICATED,
    403: _Code.PERMISSION_DENIED,
    404: _Code.NOT_FOUND,
    405: _Code.UNIMPLEMENTED,
    409: _Code.ABORTED,
    412: _Code.FAILED_PRECONDITION,
    413: _Code.RESOURCE_EXHAUSTED,  # as gRPC itself says of a message that is too large
    415: _Code.INVALID_ARGUMENT,
    422: _Code.INVALID_ARGUMENT,
    429: _Code.RESOURCE_EXHAUSTED,
    500: _Code.INTERNAL,
    501: _Code.UNIMPLEMENTED,
    503: _Code.UNAVAILABLE,
    507: _Code.RESOURCE_EXHAUSTED,
}


def status_code(problem: Mapping[str, Any]) -> grpc.StatusCode:
    """What the problem is in gRPC's terms."""
    return BY_CODE.get(problem["code"]) or BY_STATUS[problem["status"]]


def sentence(problem: Mapping[str, Any]) -> str:
    """The problem's detail, as long as a trailer may be."""
    detail: str = problem["detail"]
    return detail if len(detail) <= MAX_TEXT else detail[: MAX_TEXT - 1] + "…"


def status_details(problem: Mapping[str, Any]) -> bytes:
    """``grpc-status-details-bin``: google.rpc.Status with the Problem and an ErrorInfo.

    ``errors`` is left out where it would not fit into a trailer.
    """
    told = pb.Problem()
    fill(told, {**problem, "detail": sentence(problem)})
    if told.ByteSize() > MAX_DETAILS_BYTES:
        told.ClearField("errors")
    info = ErrorInfo(
        reason=problem["code"].upper(),
        domain=DOMAIN,
        metadata={"request_id": problem["request_id"]},
    )
    status = Status(code=status_code(problem).value[0], message=sentence(problem))
    for message in (told, info):
        packed = AnyMessage()
        packed.Pack(message)
        status.details.append(packed)
    serialized: bytes = status.SerializeToString()
    return serialized
