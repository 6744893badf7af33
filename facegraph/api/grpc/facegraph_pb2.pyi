from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DetectRequest(_message.Message):
    __slots__ = ("image", "max_faces", "attributes")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MAX_FACES_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    max_faces: int
    attributes: bool
    def __init__(self, image: _Optional[bytes] = ..., max_faces: _Optional[int] = ..., attributes: _Optional[bool] = ...) -> None: ...

class EmbedRequest(_message.Message):
    __slots__ = ("image", "max_faces", "attributes")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MAX_FACES_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    max_faces: int
    attributes: bool
    def __init__(self, image: _Optional[bytes] = ..., max_faces: _Optional[int] = ..., attributes: _Optional[bool] = ...) -> None: ...

class VerifyRequest(_message.Message):
    __slots__ = ("source", "target", "threshold")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    source: bytes
    target: bytes
    threshold: float
    def __init__(self, source: _Optional[bytes] = ..., target: _Optional[bytes] = ..., threshold: _Optional[float] = ...) -> None: ...

class SearchRequest(_message.Message):
    __slots__ = ("collection_id", "image", "embedding", "contract", "limit", "threshold", "max_faces", "consistency", "partial", "include_below", "attributes")
    COLLECTION_ID_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MAX_FACES_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_BELOW_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    collection_id: str
    image: bytes
    embedding: _containers.RepeatedScalarFieldContainer[float]
    contract: str
    limit: int
    threshold: float
    max_faces: int
    consistency: str
    partial: bool
    include_below: bool
    attributes: bool
    def __init__(self, collection_id: _Optional[str] = ..., image: _Optional[bytes] = ..., embedding: _Optional[_Iterable[float]] = ..., contract: _Optional[str] = ..., limit: _Optional[int] = ..., threshold: _Optional[float] = ..., max_faces: _Optional[int] = ..., consistency: _Optional[str] = ..., partial: _Optional[bool] = ..., include_below: _Optional[bool] = ..., attributes: _Optional[bool] = ...) -> None: ...

class CreateCollectionRequest(_message.Message):
    __slots__ = ("id", "name", "description", "metadata", "threshold", "keep_crops", "search_mode")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    KEEP_CROPS_FIELD_NUMBER: _ClassVar[int]
    SEARCH_MODE_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    description: str
    metadata: _struct_pb2.Struct
    threshold: float
    keep_crops: bool
    search_mode: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., description: _Optional[str] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., threshold: _Optional[float] = ..., keep_crops: _Optional[bool] = ..., search_mode: _Optional[str] = ...) -> None: ...

class DeleteCollectionRequest(_message.Message):
    __slots__ = ("collection_id", "force")
    COLLECTION_ID_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    collection_id: str
    force: bool
    def __init__(self, collection_id: _Optional[str] = ..., force: _Optional[bool] = ...) -> None: ...

class CreateSubjectRequest(_message.Message):
    __slots__ = ("collection_id", "images", "id", "name", "external_id", "metadata", "face", "min_quality")
    COLLECTION_ID_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    FACE_FIELD_NUMBER: _ClassVar[int]
    MIN_QUALITY_FIELD_NUMBER: _ClassVar[int]
    collection_id: str
    images: _containers.RepeatedScalarFieldContainer[bytes]
    id: str
    name: str
    external_id: str
    metadata: _struct_pb2.Struct
    face: str
    min_quality: float
    def __init__(self, collection_id: _Optional[str] = ..., images: _Optional[_Iterable[bytes]] = ..., id: _Optional[str] = ..., name: _Optional[str] = ..., external_id: _Optional[str] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., face: _Optional[str] = ..., min_quality: _Optional[float] = ...) -> None: ...

class GetSubjectRequest(_message.Message):
    __slots__ = ("collection_id", "subject_id")
    COLLECTION_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    collection_id: str
    subject_id: str
    def __init__(self, collection_id: _Optional[str] = ..., subject_id: _Optional[str] = ...) -> None: ...

class DeleteSubjectRequest(_message.Message):
    __slots__ = ("collection_id", "subject_id")
    COLLECTION_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    collection_id: str
    subject_id: str
    def __init__(self, collection_id: _Optional[str] = ..., subject_id: _Optional[str] = ...) -> None: ...

class AddSamplesRequest(_message.Message):
    __slots__ = ("collection_id", "subject_id", "images", "embeddings", "contract", "face", "min_quality")
    COLLECTION_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    FACE_FIELD_NUMBER: _ClassVar[int]
    MIN_QUALITY_FIELD_NUMBER: _ClassVar[int]
    collection_id: str
    subject_id: str
    images: _containers.RepeatedScalarFieldContainer[bytes]
    embeddings: _containers.RepeatedCompositeFieldContainer[Embedding]
    contract: str
    face: str
    min_quality: float
    def __init__(self, collection_id: _Optional[str] = ..., subject_id: _Optional[str] = ..., images: _Optional[_Iterable[bytes]] = ..., embeddings: _Optional[_Iterable[_Union[Embedding, _Mapping]]] = ..., contract: _Optional[str] = ..., face: _Optional[str] = ..., min_quality: _Optional[float] = ...) -> None: ...

class DeleteSampleRequest(_message.Message):
    __slots__ = ("collection_id", "subject_id", "sample_id")
    COLLECTION_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    collection_id: str
    subject_id: str
    sample_id: str
    def __init__(self, collection_id: _Optional[str] = ..., subject_id: _Optional[str] = ..., sample_id: _Optional[str] = ...) -> None: ...

class CaptionRequest(_message.Message):
    __slots__ = ("image", "num_beams", "max_length", "min_length", "prompt")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    NUM_BEAMS_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MIN_LENGTH_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    num_beams: int
    max_length: int
    min_length: int
    prompt: str
    def __init__(self, image: _Optional[bytes] = ..., num_beams: _Optional[int] = ..., max_length: _Optional[int] = ..., min_length: _Optional[int] = ..., prompt: _Optional[str] = ...) -> None: ...

class SegmentRequest(_message.Message):
    __slots__ = ("image", "top_k", "score_threshold", "masks")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    SCORE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MASKS_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    top_k: int
    score_threshold: float
    masks: str
    def __init__(self, image: _Optional[bytes] = ..., top_k: _Optional[int] = ..., score_threshold: _Optional[float] = ..., masks: _Optional[str] = ...) -> None: ...

class AnalyzeRequest(_message.Message):
    __slots__ = ("image", "features", "collection", "limit", "threshold", "max_faces", "consistency", "partial", "include_below", "attributes", "num_beams", "max_length", "min_length", "prompt", "top_k", "score_threshold", "masks")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MAX_FACES_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_BELOW_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    NUM_BEAMS_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MIN_LENGTH_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    SCORE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MASKS_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    features: _containers.RepeatedScalarFieldContainer[str]
    collection: str
    limit: int
    threshold: float
    max_faces: int
    consistency: str
    partial: bool
    include_below: bool
    attributes: bool
    num_beams: int
    max_length: int
    min_length: int
    prompt: str
    top_k: int
    score_threshold: float
    masks: str
    def __init__(self, image: _Optional[bytes] = ..., features: _Optional[_Iterable[str]] = ..., collection: _Optional[str] = ..., limit: _Optional[int] = ..., threshold: _Optional[float] = ..., max_faces: _Optional[int] = ..., consistency: _Optional[str] = ..., partial: _Optional[bool] = ..., include_below: _Optional[bool] = ..., attributes: _Optional[bool] = ..., num_beams: _Optional[int] = ..., max_length: _Optional[int] = ..., min_length: _Optional[int] = ..., prompt: _Optional[str] = ..., top_k: _Optional[int] = ..., score_threshold: _Optional[float] = ..., masks: _Optional[str] = ...) -> None: ...

class Embedding(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class Box(_message.Message):
    __slots__ = ("x", "y", "width", "height")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    x: float
    y: float
    width: float
    height: float
    def __init__(self, x: _Optional[float] = ..., y: _Optional[float] = ..., width: _Optional[float] = ..., height: _Optional[float] = ...) -> None: ...

class Point(_message.Message):
    __slots__ = ("x", "y")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    x: float
    y: float
    def __init__(self, x: _Optional[float] = ..., y: _Optional[float] = ...) -> None: ...

class ImageSize(_message.Message):
    __slots__ = ("width", "height")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ...) -> None: ...

class Gender(_message.Message):
    __slots__ = ("label", "probability")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    label: str
    probability: float
    def __init__(self, label: _Optional[str] = ..., probability: _Optional[float] = ...) -> None: ...

class Pose(_message.Message):
    __slots__ = ("yaw", "pitch", "roll")
    YAW_FIELD_NUMBER: _ClassVar[int]
    PITCH_FIELD_NUMBER: _ClassVar[int]
    ROLL_FIELD_NUMBER: _ClassVar[int]
    yaw: float
    pitch: float
    roll: float
    def __init__(self, yaw: _Optional[float] = ..., pitch: _Optional[float] = ..., roll: _Optional[float] = ...) -> None: ...

class Quality(_message.Message):
    __slots__ = ("score", "sharpness", "brightness", "size", "pose", "reasons")
    SCORE_FIELD_NUMBER: _ClassVar[int]
    SHARPNESS_FIELD_NUMBER: _ClassVar[int]
    BRIGHTNESS_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    POSE_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    score: float
    sharpness: float
    brightness: float
    size: float
    pose: float
    reasons: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, score: _Optional[float] = ..., sharpness: _Optional[float] = ..., brightness: _Optional[float] = ..., size: _Optional[float] = ..., pose: _Optional[float] = ..., reasons: _Optional[_Iterable[str]] = ...) -> None: ...

class Liveness(_message.Message):
    __slots__ = ("live", "score")
    LIVE_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    live: bool
    score: float
    def __init__(self, live: _Optional[bool] = ..., score: _Optional[float] = ...) -> None: ...

class FaceAttributes(_message.Message):
    __slots__ = ("age", "gender", "pose", "quality", "liveness")
    AGE_FIELD_NUMBER: _ClassVar[int]
    GENDER_FIELD_NUMBER: _ClassVar[int]
    POSE_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    LIVENESS_FIELD_NUMBER: _ClassVar[int]
    age: int
    gender: Gender
    pose: Pose
    quality: Quality
    liveness: Liveness
    def __init__(self, age: _Optional[int] = ..., gender: _Optional[_Union[Gender, _Mapping]] = ..., pose: _Optional[_Union[Pose, _Mapping]] = ..., quality: _Optional[_Union[Quality, _Mapping]] = ..., liveness: _Optional[_Union[Liveness, _Mapping]] = ...) -> None: ...

class Face(_message.Message):
    __slots__ = ("bbox", "bbox_normalized", "landmarks", "detection_score", "attributes")
    BBOX_FIELD_NUMBER: _ClassVar[int]
    BBOX_NORMALIZED_FIELD_NUMBER: _ClassVar[int]
    LANDMARKS_FIELD_NUMBER: _ClassVar[int]
    DETECTION_SCORE_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    bbox: Box
    bbox_normalized: Box
    landmarks: _containers.RepeatedCompositeFieldContainer[Point]
    detection_score: float
    attributes: FaceAttributes
    def __init__(self, bbox: _Optional[_Union[Box, _Mapping]] = ..., bbox_normalized: _Optional[_Union[Box, _Mapping]] = ..., landmarks: _Optional[_Iterable[_Union[Point, _Mapping]]] = ..., detection_score: _Optional[float] = ..., attributes: _Optional[_Union[FaceAttributes, _Mapping]] = ...) -> None: ...

class DetectAnswer(_message.Message):
    __slots__ = ("faces", "image", "model", "request_id")
    FACES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    faces: _containers.RepeatedCompositeFieldContainer[Face]
    image: ImageSize
    model: str
    request_id: str
    def __init__(self, faces: _Optional[_Iterable[_Union[Face, _Mapping]]] = ..., image: _Optional[_Union[ImageSize, _Mapping]] = ..., model: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class EmbeddedFace(_message.Message):
    __slots__ = ("bbox", "bbox_normalized", "landmarks", "detection_score", "attributes", "embedding")
    BBOX_FIELD_NUMBER: _ClassVar[int]
    BBOX_NORMALIZED_FIELD_NUMBER: _ClassVar[int]
    LANDMARKS_FIELD_NUMBER: _ClassVar[int]
    DETECTION_SCORE_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    bbox: Box
    bbox_normalized: Box
    landmarks: _containers.RepeatedCompositeFieldContainer[Point]
    detection_score: float
    attributes: FaceAttributes
    embedding: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, bbox: _Optional[_Union[Box, _Mapping]] = ..., bbox_normalized: _Optional[_Union[Box, _Mapping]] = ..., landmarks: _Optional[_Iterable[_Union[Point, _Mapping]]] = ..., detection_score: _Optional[float] = ..., attributes: _Optional[_Union[FaceAttributes, _Mapping]] = ..., embedding: _Optional[_Iterable[float]] = ...) -> None: ...

class ContractAnswer(_message.Message):
    __slots__ = ("id", "dimension", "pack")
    ID_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    PACK_FIELD_NUMBER: _ClassVar[int]
    id: str
    dimension: int
    pack: str
    def __init__(self, id: _Optional[str] = ..., dimension: _Optional[int] = ..., pack: _Optional[str] = ...) -> None: ...

class EmbeddingsAnswer(_message.Message):
    __slots__ = ("faces", "image", "contract", "model", "request_id")
    FACES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    faces: _containers.RepeatedCompositeFieldContainer[EmbeddedFace]
    image: ImageSize
    contract: ContractAnswer
    model: str
    request_id: str
    def __init__(self, faces: _Optional[_Iterable[_Union[EmbeddedFace, _Mapping]]] = ..., image: _Optional[_Union[ImageSize, _Mapping]] = ..., contract: _Optional[_Union[ContractAnswer, _Mapping]] = ..., model: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class VerifyAnswer(_message.Message):
    __slots__ = ("decision", "similarity", "threshold", "source", "target", "model", "request_id")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    decision: str
    similarity: float
    threshold: float
    source: Face
    target: Face
    model: str
    request_id: str
    def __init__(self, decision: _Optional[str] = ..., similarity: _Optional[float] = ..., threshold: _Optional[float] = ..., source: _Optional[_Union[Face, _Mapping]] = ..., target: _Optional[_Union[Face, _Mapping]] = ..., model: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class MatchAnswer(_message.Message):
    __slots__ = ("subject_id", "name", "metadata", "sample_id", "similarity")
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    subject_id: str
    name: str
    metadata: _struct_pb2.Struct
    sample_id: str
    similarity: float
    def __init__(self, subject_id: _Optional[str] = ..., name: _Optional[str] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., sample_id: _Optional[str] = ..., similarity: _Optional[float] = ...) -> None: ...

class SearchedFace(_message.Message):
    __slots__ = ("bbox", "bbox_normalized", "landmarks", "detection_score", "attributes", "decision", "matches", "threshold")
    BBOX_FIELD_NUMBER: _ClassVar[int]
    BBOX_NORMALIZED_FIELD_NUMBER: _ClassVar[int]
    LANDMARKS_FIELD_NUMBER: _ClassVar[int]
    DETECTION_SCORE_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    MATCHES_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    bbox: Box
    bbox_normalized: Box
    landmarks: _containers.RepeatedCompositeFieldContainer[Point]
    detection_score: float
    attributes: FaceAttributes
    decision: str
    matches: _containers.RepeatedCompositeFieldContainer[MatchAnswer]
    threshold: float
    def __init__(self, bbox: _Optional[_Union[Box, _Mapping]] = ..., bbox_normalized: _Optional[_Union[Box, _Mapping]] = ..., landmarks: _Optional[_Iterable[_Union[Point, _Mapping]]] = ..., detection_score: _Optional[float] = ..., attributes: _Optional[_Union[FaceAttributes, _Mapping]] = ..., decision: _Optional[str] = ..., matches: _Optional[_Iterable[_Union[MatchAnswer, _Mapping]]] = ..., threshold: _Optional[float] = ...) -> None: ...

class Partial(_message.Message):
    __slots__ = ("missing_shards", "shards")
    MISSING_SHARDS_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    missing_shards: _containers.RepeatedScalarFieldContainer[int]
    shards: int
    def __init__(self, missing_shards: _Optional[_Iterable[int]] = ..., shards: _Optional[int] = ...) -> None: ...

class SearchAnswer(_message.Message):
    __slots__ = ("faces", "image", "version", "model", "partial", "request_id")
    FACES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    faces: _containers.RepeatedCompositeFieldContainer[SearchedFace]
    image: ImageSize
    version: int
    model: str
    partial: Partial
    request_id: str
    def __init__(self, faces: _Optional[_Iterable[_Union[SearchedFace, _Mapping]]] = ..., image: _Optional[_Union[ImageSize, _Mapping]] = ..., version: _Optional[int] = ..., model: _Optional[str] = ..., partial: _Optional[_Union[Partial, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class CollectionAnswer(_message.Message):
    __slots__ = ("id", "name", "description", "metadata", "threshold", "keep_crops", "search_mode", "contract", "subject_count", "sample_count", "version", "created_at", "updated_at", "request_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    KEEP_CROPS_FIELD_NUMBER: _ClassVar[int]
    SEARCH_MODE_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_COUNT_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    description: str
    metadata: _struct_pb2.Struct
    threshold: float
    keep_crops: bool
    search_mode: str
    contract: str
    subject_count: int
    sample_count: int
    version: int
    created_at: str
    updated_at: str
    request_id: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., description: _Optional[str] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., threshold: _Optional[float] = ..., keep_crops: _Optional[bool] = ..., search_mode: _Optional[str] = ..., contract: _Optional[str] = ..., subject_count: _Optional[int] = ..., sample_count: _Optional[int] = ..., version: _Optional[int] = ..., created_at: _Optional[str] = ..., updated_at: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class SubjectFields(_message.Message):
    __slots__ = ("id", "collection_id", "name", "external_id", "metadata", "sample_count", "created_at", "updated_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    collection_id: str
    name: str
    external_id: str
    metadata: _struct_pb2.Struct
    sample_count: int
    created_at: str
    updated_at: str
    def __init__(self, id: _Optional[str] = ..., collection_id: _Optional[str] = ..., name: _Optional[str] = ..., external_id: _Optional[str] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., sample_count: _Optional[int] = ..., created_at: _Optional[str] = ..., updated_at: _Optional[str] = ...) -> None: ...

class SubjectAnswer(_message.Message):
    __slots__ = ("id", "collection_id", "name", "external_id", "metadata", "sample_count", "created_at", "updated_at", "request_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    collection_id: str
    name: str
    external_id: str
    metadata: _struct_pb2.Struct
    sample_count: int
    created_at: str
    updated_at: str
    request_id: str
    def __init__(self, id: _Optional[str] = ..., collection_id: _Optional[str] = ..., name: _Optional[str] = ..., external_id: _Optional[str] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., sample_count: _Optional[int] = ..., created_at: _Optional[str] = ..., updated_at: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class SampleFields(_message.Message):
    __slots__ = ("id", "subject_id", "bbox", "detection_score", "created_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    BBOX_FIELD_NUMBER: _ClassVar[int]
    DETECTION_SCORE_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    subject_id: str
    bbox: Box
    detection_score: float
    created_at: str
    def __init__(self, id: _Optional[str] = ..., subject_id: _Optional[str] = ..., bbox: _Optional[_Union[Box, _Mapping]] = ..., detection_score: _Optional[float] = ..., created_at: _Optional[str] = ...) -> None: ...

class RejectedImage(_message.Message):
    __slots__ = ("index", "code", "detail", "reasons")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    index: int
    code: str
    detail: str
    reasons: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, index: _Optional[int] = ..., code: _Optional[str] = ..., detail: _Optional[str] = ..., reasons: _Optional[_Iterable[str]] = ...) -> None: ...

class EnrolledSubject(_message.Message):
    __slots__ = ("subject", "samples", "rejected", "version", "request_id")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    subject: SubjectFields
    samples: _containers.RepeatedCompositeFieldContainer[SampleFields]
    rejected: _containers.RepeatedCompositeFieldContainer[RejectedImage]
    version: int
    request_id: str
    def __init__(self, subject: _Optional[_Union[SubjectFields, _Mapping]] = ..., samples: _Optional[_Iterable[_Union[SampleFields, _Mapping]]] = ..., rejected: _Optional[_Iterable[_Union[RejectedImage, _Mapping]]] = ..., version: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class EnrolledSamples(_message.Message):
    __slots__ = ("samples", "rejected", "version", "request_id")
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    samples: _containers.RepeatedCompositeFieldContainer[SampleFields]
    rejected: _containers.RepeatedCompositeFieldContainer[RejectedImage]
    version: int
    request_id: str
    def __init__(self, samples: _Optional[_Iterable[_Union[SampleFields, _Mapping]]] = ..., rejected: _Optional[_Iterable[_Union[RejectedImage, _Mapping]]] = ..., version: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class DeleteAnswer(_message.Message):
    __slots__ = ("request_id",)
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    def __init__(self, request_id: _Optional[str] = ...) -> None: ...

class CaptionAnswer(_message.Message):
    __slots__ = ("caption", "model", "request_id", "problem")
    CAPTION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    caption: str
    model: str
    request_id: str
    problem: Problem
    def __init__(self, caption: _Optional[str] = ..., model: _Optional[str] = ..., request_id: _Optional[str] = ..., problem: _Optional[_Union[Problem, _Mapping]] = ...) -> None: ...

class Mask(_message.Message):
    __slots__ = ("encoding", "size", "counts", "data_uri")
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    DATA_URI_FIELD_NUMBER: _ClassVar[int]
    encoding: str
    size: _containers.RepeatedScalarFieldContainer[int]
    counts: str
    data_uri: str
    def __init__(self, encoding: _Optional[str] = ..., size: _Optional[_Iterable[int]] = ..., counts: _Optional[str] = ..., data_uri: _Optional[str] = ...) -> None: ...

class ObjectAnswer(_message.Message):
    __slots__ = ("label", "score", "bbox", "mask")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    BBOX_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    label: str
    score: float
    bbox: Box
    mask: Mask
    def __init__(self, label: _Optional[str] = ..., score: _Optional[float] = ..., bbox: _Optional[_Union[Box, _Mapping]] = ..., mask: _Optional[_Union[Mask, _Mapping]] = ...) -> None: ...

class SegmentationAnswer(_message.Message):
    __slots__ = ("objects", "image", "model", "request_id", "problem")
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    objects: _containers.RepeatedCompositeFieldContainer[ObjectAnswer]
    image: ImageSize
    model: str
    request_id: str
    problem: Problem
    def __init__(self, objects: _Optional[_Iterable[_Union[ObjectAnswer, _Mapping]]] = ..., image: _Optional[_Union[ImageSize, _Mapping]] = ..., model: _Optional[str] = ..., request_id: _Optional[str] = ..., problem: _Optional[_Union[Problem, _Mapping]] = ...) -> None: ...

class AnalyzedFace(_message.Message):
    __slots__ = ("bbox", "bbox_normalized", "landmarks", "detection_score", "attributes", "person")
    BBOX_FIELD_NUMBER: _ClassVar[int]
    BBOX_NORMALIZED_FIELD_NUMBER: _ClassVar[int]
    LANDMARKS_FIELD_NUMBER: _ClassVar[int]
    DETECTION_SCORE_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    PERSON_FIELD_NUMBER: _ClassVar[int]
    bbox: Box
    bbox_normalized: Box
    landmarks: _containers.RepeatedCompositeFieldContainer[Point]
    detection_score: float
    attributes: FaceAttributes
    person: int
    def __init__(self, bbox: _Optional[_Union[Box, _Mapping]] = ..., bbox_normalized: _Optional[_Union[Box, _Mapping]] = ..., landmarks: _Optional[_Iterable[_Union[Point, _Mapping]]] = ..., detection_score: _Optional[float] = ..., attributes: _Optional[_Union[FaceAttributes, _Mapping]] = ..., person: _Optional[int] = ...) -> None: ...

class AnalyzedFaces(_message.Message):
    __slots__ = ("faces", "image", "model", "problem")
    FACES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    faces: _containers.RepeatedCompositeFieldContainer[AnalyzedFace]
    image: ImageSize
    model: str
    problem: Problem
    def __init__(self, faces: _Optional[_Iterable[_Union[AnalyzedFace, _Mapping]]] = ..., image: _Optional[_Union[ImageSize, _Mapping]] = ..., model: _Optional[str] = ..., problem: _Optional[_Union[Problem, _Mapping]] = ...) -> None: ...

class AnalyzedSearchedFace(_message.Message):
    __slots__ = ("bbox", "bbox_normalized", "landmarks", "detection_score", "attributes", "decision", "matches", "threshold", "person")
    BBOX_FIELD_NUMBER: _ClassVar[int]
    BBOX_NORMALIZED_FIELD_NUMBER: _ClassVar[int]
    LANDMARKS_FIELD_NUMBER: _ClassVar[int]
    DETECTION_SCORE_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    MATCHES_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    PERSON_FIELD_NUMBER: _ClassVar[int]
    bbox: Box
    bbox_normalized: Box
    landmarks: _containers.RepeatedCompositeFieldContainer[Point]
    detection_score: float
    attributes: FaceAttributes
    decision: str
    matches: _containers.RepeatedCompositeFieldContainer[MatchAnswer]
    threshold: float
    person: int
    def __init__(self, bbox: _Optional[_Union[Box, _Mapping]] = ..., bbox_normalized: _Optional[_Union[Box, _Mapping]] = ..., landmarks: _Optional[_Iterable[_Union[Point, _Mapping]]] = ..., detection_score: _Optional[float] = ..., attributes: _Optional[_Union[FaceAttributes, _Mapping]] = ..., decision: _Optional[str] = ..., matches: _Optional[_Iterable[_Union[MatchAnswer, _Mapping]]] = ..., threshold: _Optional[float] = ..., person: _Optional[int] = ...) -> None: ...

class AnalyzedSearch(_message.Message):
    __slots__ = ("faces", "image", "version", "model", "partial", "problem")
    FACES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    faces: _containers.RepeatedCompositeFieldContainer[AnalyzedSearchedFace]
    image: ImageSize
    version: int
    model: str
    partial: Partial
    problem: Problem
    def __init__(self, faces: _Optional[_Iterable[_Union[AnalyzedSearchedFace, _Mapping]]] = ..., image: _Optional[_Union[ImageSize, _Mapping]] = ..., version: _Optional[int] = ..., model: _Optional[str] = ..., partial: _Optional[_Union[Partial, _Mapping]] = ..., problem: _Optional[_Union[Problem, _Mapping]] = ...) -> None: ...

class AnalyzeAnswer(_message.Message):
    __slots__ = ("faces", "search", "caption", "segmentation", "request_id")
    FACES_FIELD_NUMBER: _ClassVar[int]
    SEARCH_FIELD_NUMBER: _ClassVar[int]
    CAPTION_FIELD_NUMBER: _ClassVar[int]
    SEGMENTATION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    faces: AnalyzedFaces
    search: AnalyzedSearch
    caption: CaptionAnswer
    segmentation: SegmentationAnswer
    request_id: str
    def __init__(self, faces: _Optional[_Union[AnalyzedFaces, _Mapping]] = ..., search: _Optional[_Union[AnalyzedSearch, _Mapping]] = ..., caption: _Optional[_Union[CaptionAnswer, _Mapping]] = ..., segmentation: _Optional[_Union[SegmentationAnswer, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class Problem(_message.Message):
    __slots__ = ("type", "title", "status", "detail", "code", "request_id", "errors")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: _containers.RepeatedCompositeFieldContainer[_struct_pb2.Struct]
    def __init__(self, type: _Optional[str] = ..., title: _Optional[str] = ..., status: _Optional[int] = ..., detail: _Optional[str] = ..., code: _Optional[str] = ..., request_id: _Optional[str] = ..., errors: _Optional[_Iterable[_Union[_struct_pb2.Struct, _Mapping]]] = ...) -> None: ...
