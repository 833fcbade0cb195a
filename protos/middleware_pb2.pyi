from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LookupRequest(_message.Message):
    __slots__ = ("batch",)
    BATCH_FIELD_NUMBER: _ClassVar[int]
    batch: bytes
    def __init__(self, batch: _Optional[bytes] = ...) -> None: ...

class LookupResponse(_message.Message):
    __slots__ = ("features",)
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    features: _containers.RepeatedCompositeFieldContainer[FeatureEmbedding]
    def __init__(self, features: _Optional[_Iterable[_Union[FeatureEmbedding, _Mapping]]] = ...) -> None: ...

class FeatureEmbedding(_message.Message):
    __slots__ = ("name", "dim", "sum", "raw")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    SUM_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    name: str
    dim: int
    sum: SumEmbedding
    raw: RawEmbedding
    def __init__(self, name: _Optional[str] = ..., dim: _Optional[int] = ..., sum: _Optional[_Union[SumEmbedding, _Mapping]] = ..., raw: _Optional[_Union[RawEmbedding, _Mapping]] = ...) -> None: ...

class SumEmbedding(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: bytes
    def __init__(self, values: _Optional[bytes] = ...) -> None: ...

class RawEmbedding(_message.Message):
    __slots__ = ("values", "index", "sample_id_num", "sample_fixed_size")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_ID_NUM_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIXED_SIZE_FIELD_NUMBER: _ClassVar[int]
    values: bytes
    index: bytes
    sample_id_num: bytes
    sample_fixed_size: int
    def __init__(self, values: _Optional[bytes] = ..., index: _Optional[bytes] = ..., sample_id_num: _Optional[bytes] = ..., sample_fixed_size: _Optional[int] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LookupTotals(_message.Message):
    __slots__ = ("lookups", "missing", "dim_mismatch")
    LOOKUPS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    DIM_MISMATCH_FIELD_NUMBER: _ClassVar[int]
    lookups: int
    missing: int
    dim_mismatch: int
    def __init__(self, lookups: _Optional[int] = ..., missing: _Optional[int] = ..., dim_mismatch: _Optional[int] = ...) -> None: ...

class ShardStatus(_message.Message):
    __slots__ = ("replica_index", "address", "ready", "message", "way", "attached")
    REPLICA_INDEX_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    WAY_FIELD_NUMBER: _ClassVar[int]
    ATTACHED_FIELD_NUMBER: _ClassVar[int]
    replica_index: int
    address: str
    ready: bool
    message: str
    way: str
    attached: LookupTotals
    def __init__(self, replica_index: _Optional[int] = ..., address: _Optional[str] = ..., ready: _Optional[bool] = ..., message: _Optional[str] = ..., way: _Optional[str] = ..., attached: _Optional[_Union[LookupTotals, _Mapping]] = ...) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("ready", "shards", "version")
    READY_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ready: bool
    shards: _containers.RepeatedCompositeFieldContainer[ShardStatus]
    version: str
    def __init__(self, ready: _Optional[bool] = ..., shards: _Optional[_Iterable[_Union[ShardStatus, _Mapping]]] = ..., version: _Optional[str] = ...) -> None: ...
