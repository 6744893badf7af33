"""Every error a client can meet, with its stable code and HTTP status.

    FacegraphError                      internal                 500
    ├── InvalidRequest                  invalid_request          400
    ├── Unauthorized                    unauthorized             401
    ├── Forbidden                       forbidden                403
    ├── NotFound                        not_found                404
    │   ├── CollectionNotFound          collection_not_found
    │   ├── SubjectNotFound             subject_not_found
    │   ├── SampleNotFound              sample_not_found
    │   ├── JobNotFound                 job_not_found
    │   └── RecognizerNotFound          recognizer_not_found
    ├── MethodNotAllowed                method_not_allowed       405
    ├── Conflict                        conflict                 409
    │   ├── CollectionExists            collection_exists
    │   ├── SubjectExists               subject_exists
    │   ├── CollectionNotEmpty          collection_not_empty
    │   ├── ContractMismatch            contract_mismatch
    │   ├── RecognizerNotReady          recognizer_not_ready
    │   └── TooManyRecognizers          too_many_recognizers
    ├── PreconditionFailed              precondition_failed      412
    ├── ImageTooLarge                   image_too_large          413
    ├── UnsupportedMediaType            unsupported_media_type   415
    ├── Unprocessable                   unprocessable            422
    │   ├── InvalidImage                invalid_image
    │   ├── InvalidVideo                invalid_video
    │   ├── FaceNotFound                face_not_found
    │   ├── SeveralFaces                several_faces
    │   ├── LowQuality                  low_quality
    │   └── InvalidTrainingSet          invalid_training_set
    ├── RateLimited                     rate_limited             429
    ├── GalleryTooLarge                 gallery_too_large        507
    ├── Unavailable                     unavailable              503, Retry-After
    │   ├── Overloaded                  overloaded
    │   ├── ModelUnavailable            model_unavailable
    │   ├── StoreUnavailable            store_unavailable
    │   ├── GalleryBehind               gallery_behind
    │   ├── ShardUnavailable            shard_unavailable
    │   └── TimedOut                    timeout
    └── StartupError                    never sent: raised before the service answers
        ├── ConfigError
        ├── ModelMissing
        └── DatabaseError

Errors cross process borders by pickle, so every argument is positional and reaches
``Exception.__init__``; a subclass adds no constructor of its own.
"""

from __future__ import annotations

from typing import Any, ClassVar


class FacegraphError(Exception):
    """An error with a sentence for the client.

    ``errors`` lists what is wrong part by part (for example one entry per bad field);
    each entry is a JSON object and travels in the problem's ``errors`` member.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    retry_after_s: ClassVar[int | None] = None

    def __init__(self, detail: str, errors: tuple[dict[str, Any], ...] = ()) -> None:
        super().__init__(detail, errors)
        self.detail = detail
        self.errors = errors

    def __str__(self) -> str:
        return self.detail

    def problem(self) -> dict[str, Any]:
        """The JSON object of RFC 9457, without the request's id."""
        return {
            "type": f"urn:facegraph:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "errors": list(self.errors),
        }


class InvalidRequest(FacegraphError):
    code, status, title = "invalid_request", 400, "Invalid request"


class Unauthorized(FacegraphError):
    code, status, title = "unauthorized", 401, "Unauthorized"


class Forbidden(FacegraphError):
    code, status, title = "forbidden", 403, "Forbidden"


class NotFound(FacegraphError):
    code, status, title = "not_found", 404, "Not found"


class CollectionNotFound(NotFound):
    code, title = "collection_not_found", "Collection not found"


class SubjectNotFound(NotFound):
    code, title = "subject_not_found", "Subject not found"


class SampleNotFound(NotFound):
    code, title = "sample_not_found", "Sample not found"


class JobNotFound(NotFound):
    code, title = "job_not_found", "Job not found"


class RecognizerNotFound(NotFound):
    code, title = "recognizer_not_found", "Recognizer not found"


class MethodNotAllowed(FacegraphError):
    code, status, title = "method_not_allowed", 405, "Method not allowed"


class Conflict(FacegraphError):
    code, status, title = "conflict", 409, "Conflict"


class CollectionExists(Conflict):
    code, title = "collection_exists", "Collection exists"


class SubjectExists(Conflict):
    code, title = "subject_exists", "Subject exists"


class CollectionNotEmpty(Conflict):
    code, title = "collection_not_empty", "Collection not empty"


class ContractMismatch(Conflict):
    code, title = "contract_mismatch", "Embedding contract mismatch"


class RecognizerNotReady(Conflict):
    code, title = "recognizer_not_ready", "Recognizer not ready"


class TooManyRecognizers(Conflict):
    code, title = "too_many_recognizers", "Too many recognizers"


class PreconditionFailed(FacegraphError):
    code, status, title = "precondition_failed", 412, "Precondition failed"


class ImageTooLarge(FacegraphError):
    code, status, title = "image_too_large", 413, "Image too large"


class UnsupportedMediaType(FacegraphError):
    code, status, title = "unsupported_media_type", 415, "Unsupported media type"


class Unprocessable(FacegraphError):
    code, status, title = "unprocessable", 422, "Unprocessable"


class InvalidImage(Unprocessable):
    code, title = "invalid_image", "Invalid image"


class InvalidVideo(Unprocessable):
    code, title = "invalid_video", "Invalid video"


class FaceNotFound(Unprocessable):
    code, title = "face_not_found", "Face not found"


class SeveralFaces(Unprocessable):
    code, title = "several_faces", "Several faces"


class LowQuality(Unprocessable):
    code, title = "low_quality", "Low quality"


class InvalidTrainingSet(Unprocessable):
    """No recognizer can be made of these pictures; ``errors`` tells what became of them."""

    code, title = "invalid_training_set", "Invalid training set"


class RateLimited(FacegraphError):
    code, status, title = "rate_limited", 429, "Rate limited"
    retry_after_s = 1


class GalleryTooLarge(FacegraphError):
    """Waiting does not help: the operator has to give galleries more memory."""

    code, status, title = "gallery_too_large", 507, "Gallery too large"


class Unavailable(FacegraphError):
    code, status, title = "unavailable", 503, "Unavailable"
    retry_after_s = 1


class Overloaded(Unavailable):
    code, title = "overloaded", "Overloaded"


class ModelUnavailable(Unavailable):
    code, title = "model_unavailable", "Model unavailable"
    retry_after_s = 30


class StoreUnavailable(Unavailable):
    code, title = "store_unavailable", "Store unavailable"


class GalleryBehind(Unavailable):
    code, title = "gallery_behind", "Gallery behind"


class ShardUnavailable(Unavailable):
    """A part of the subjects cannot be searched; ``errors`` has an entry per missing shard."""

    code, title = "shard_unavailable", "Shard unavailable"


class TimedOut(Unavailable):
    code, title = "timeout", "Timed out"


class StartupError(FacegraphError):
    """The service cannot start; the sentence says what to do about it."""

    title = "Cannot start"


class ConfigError(StartupError):
    """A setting is unknown, has the wrong type, or contradicts another."""


class ModelMissing(StartupError):
    """A model file is absent or damaged; the sentence names the command that brings it."""


class DatabaseError(StartupError):
    """The database cannot be started, reached or migrated."""
