"""Which endpoint of /v1 answers which rpc."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from facegraph.api.endpoint import Endpoint
from facegraph.api.grpc import facegraph_pb2 as pb
from facegraph.api.grpc.messages import as_images, members
from facegraph.api.parsing import IMAGE_FIELDS, Limits, Parsed
from facegraph.api.v1 import analyze, collections, faces, search, subjects, vision
from facegraph.config import IngressTuning
from facegraph.errors import ImageTooLarge

SERVICE = pb.DESCRIPTOR.services_by_name["Facegraph"]

COLLECTION = {"collection_id": "c"}
SUBJECT = COLLECTION | {"subject_id": "s"}
SAMPLE = SUBJECT | {"sample_id": "f"}


@dataclass(frozen=True, slots=True)
class Rpc:
    """ids: field of the request → its variable in the endpoint's path"""

    endpoint: Endpoint[Any]
    ids: Mapping[str, str] = field(default_factory=dict)

    def path(self, request: Message) -> str:
        """The endpoint's path for this request; what is no id stays one step of it."""
        path = self.endpoint.path
        for name, variable in self.ids.items():
            step = quote(getattr(request, name), safe="@:") or "%20"
            path = path.replace(f"{{{variable}}}", step)
        return path

    def read(self, request: Message, tuning: IngressTuning) -> Parsed:
        """The request's parameters and pictures. InvalidRequest, ImageTooLarge."""
        if request.ByteSize() > tuning.max_request_bytes:
            raise ImageTooLarge(f"a request may have {tuning.max_request_bytes} bytes")
        limits, parsed = Limits(tuning), Parsed()
        for name, value in members(request, without=self.ids).items():
            if name in IMAGE_FIELDS:
                parsed.images[name] = [limits.admit(data) for data in as_images(value)]
            else:
                parsed.add_param(name, value)
        return parsed


RPCS: Mapping[str, Rpc] = {
    "Detect": Rpc(faces.detect),
    "Embed": Rpc(faces.embeddings),
    "Verify": Rpc(faces.verify),
    "Search": Rpc(search.search, COLLECTION),
    "CreateCollection": Rpc(collections.create),
    "DeleteCollection": Rpc(collections.delete, COLLECTION),
    "CreateSubject": Rpc(subjects.create, COLLECTION),
    "GetSubject": Rpc(subjects.read, SUBJECT),
    "DeleteSubject": Rpc(subjects.delete, SUBJECT),
    "AddSamples": Rpc(subjects.add_samples, SUBJECT),
    "DeleteSample": Rpc(subjects.delete_sample, SAMPLE),
    "Caption": Rpc(vision.caption),
    "Segment": Rpc(vision.segment),
    "Analyze": Rpc(analyze.analyze_picture),
}


def answer_class(name: str) -> type[Message]:
    """The message that rpc ``name`` answers with."""
    answer: type[Message] = GetMessageClass(SERVICE.methods_by_name[name].output_type)
    return answer
