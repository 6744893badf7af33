"""face_recognition_v2's wire format: faces over the collection ``default``, as smartav's.

Policies: enrolling an id that exists replaces the subject; a probe face nobody matches is left
out; probing an empty gallery is a failure.
"""

from __future__ import annotations

from starlette.routing import Route

from facegraph.api.compat.recognition import Policy, routes
from facegraph.api.compat.wire import alive

POLICY = Policy(
    prefix="",
    enrol="replace",
    strangers="omit",
    invalid_update=500,
    no_face="Failed to detect face from the input image",
    empty_gallery="There is no sample face data.",
)

ROUTES = [Route("/", alive("Face recognition v2 is running.")), *routes(POLICY)]
