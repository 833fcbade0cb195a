from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DTYPE_UNSPECIFIED: _ClassVar[DType]
    DTYPE_FLOAT32: _ClassVar[DType]
    DTYPE_FLOAT16: _ClassVar[DType]

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_UNSPECIFIED: _ClassVar[State]
    STATE_LOADING: _ClassVar[State]
    STATE_READY: _ClassVar[State]
    STATE_FAILED: _ClassVar[State]
DTYPE_UNSPECIFIED: DType
DTYPE_FLOAT32: DType
DTYPE_FLOAT16: DType
STATE_UNSPECIFIED: State
STATE_LOADING: State
STATE_READY: State
STATE_FAILED: State

class LookupRequest(_message.Message):
    __slots__ = ("replica_index", "replica_size", "groups")
    REPLICA_INDEX_FIELD_NUMBER: _ClassVar[int]
    REPLICA_SIZE_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    replica_index: int
    replica_size: int
    groups: _containers.RepeatedCompositeFieldContainer[SignGroup]
    def __init__(self, replica_index: _Optional[int] = ..., replica_size: _Optional[int] = ..., groups: _Optional[_Iterable[_Union[SignGroup, _Mapping]]] = ...) -> None: ...

class SignGroup(_message.Message):
    __slots__ = ("dim", "signs")
    DIM_FIELD_NUMBER: _ClassVar[int]
    SIGNS_FIELD_NUMBER: _ClassVar[int]
    dim: int
    signs: bytes
    def __init__(self, dim: _Optional[int] = ..., signs: _Optional[bytes] = ...) -> None: ...

class LookupResponse(_message.Message):
    __slots__ = ("groups",)
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    groups: _containers.RepeatedCompositeFieldContainer[RowGroup]
    def __init__(self, groups: _Optional[_Iterable[_Union[RowGroup, _Mapping]]] = ...) -> None: ...

class RowGroup(_message.Message):
    __slots__ = ("dim", "dtype", "rows", "missing", "dim_mismatch")
    DIM_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    DIM_MISMATCH_FIELD_NUMBER: _ClassVar[int]
    dim: int
    dtype: DType
    rows: bytes
    missing: int
    dim_mismatch: int
    def __init__(self, dim: _Optional[int] = ..., dtype: _Optional[_Union[DType, str]] = ..., rows: _Optional[bytes] = ..., missing: _Optional[int] = ..., dim_mismatch: _Optional[int] = ...) -> None: ...

class LoadCheckpointRequest(_message.Message):
    __slots__ = ("path",)
    PATH_FIELD_NUMBER: _ClassVar[int]
    path: str
    def __init__(self, path: _Optional[str] = ...) -> None: ...

class LoadCheckpointProgress(_message.Message):
    __slots__ = ("files_done", "files_total", "rows", "done", "warnings")
    FILES_DONE_FIELD_NUMBER: _ClassVar[int]
    FILES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    files_done: int
    files_total: int
    rows: int
    done: bool
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, files_done: _Optional[int] = ..., files_total: _Optional[int] = ..., rows: _Optional[int] = ..., done: _Optional[bool] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TableStatus(_message.Message):
    __slots__ = ("dim", "dtype", "rows", "bytes", "huge_pages")
    DIM_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    HUGE_PAGES_FIELD_NUMBER: _ClassVar[int]
    dim: int
    dtype: DType
    rows: int
    bytes: int
    huge_pages: bool
    def __init__(self, dim: _Optional[int] = ..., dtype: _Optional[_Union[DType, str]] = ..., rows: _Optional[int] = ..., bytes: _Optional[int] = ..., huge_pages: _Optional[bool] = ...) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("state", "message", "progress", "replica_index", "replica_size", "checkpoint", "tables", "lookups", "missing", "dim_mismatch", "warnings", "version", "instance_id", "table_path", "server_uid", "started")
    STATE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    REPLICA_INDEX_FIELD_NUMBER: _ClassVar[int]
    REPLICA_SIZE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    LOOKUPS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    DIM_MISMATCH_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    TABLE_PATH_FIELD_NUMBER: _ClassVar[int]
    SERVER_UID_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    state: State
    message: str
    progress: float
    replica_index: int
    replica_size: int
    checkpoint: str
    tables: _containers.RepeatedCompositeFieldContainer[TableStatus]
    lookups: int
    missing: int
    dim_mismatch: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    version: str
    instance_id: bytes
    table_path: str
    server_uid: int
    started: str
    def __init__(self, state: _Optional[_Union[State, str]] = ..., message: _Optional[str] = ..., progress: _Optional[float] = ..., replica_index: _Optional[int] = ..., replica_size: _Optional[int] = ..., checkpoint: _Optional[str] = ..., tables: _Optional[_Iterable[_Union[TableStatus, _Mapping]]] = ..., lookups: _Optional[int] = ..., missing: _Optional[int] = ..., dim_mismatch: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ..., version: _Optional[str] = ..., instance_id: _Optional[bytes] = ..., table_path: _Optional[str] = ..., server_uid: _Optional[int] = ..., started: _Optional[str] = ...) -> None: ...
