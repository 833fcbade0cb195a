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
    __slots__ = ("groups", "newest_event_ns")
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    NEWEST_EVENT_NS_FIELD_NUMBER: _ClassVar[int]
    groups: _containers.RepeatedCompositeFieldContainer[RowGroup]
    newest_event_ns: int
    def __init__(self, groups: _Optional[_Iterable[_Union[RowGroup, _Mapping]]] = ..., newest_event_ns: _Optional[int] = ...) -> None: ...

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
    __slots__ = ("state", "message", "progress", "replica_index", "replica_size", "checkpoint", "tables", "lookups", "missing", "dim_mismatch", "warnings", "version", "instance_id", "table_path", "server_uid", "started", "updates")
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
    UPDATES_FIELD_NUMBER: _ClassVar[int]
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
    updates: UpdateStatus
    def __init__(self, state: _Optional[_Union[State, str]] = ..., message: _Optional[str] = ..., progress: _Optional[float] = ..., replica_index: _Optional[int] = ..., replica_size: _Optional[int] = ..., checkpoint: _Optional[str] = ..., tables: _Optional[_Iterable[_Union[TableStatus, _Mapping]]] = ..., lookups: _Optional[int] = ..., missing: _Optional[int] = ..., dim_mismatch: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ..., version: _Optional[str] = ..., instance_id: _Optional[bytes] = ..., table_path: _Optional[str] = ..., server_uid: _Optional[int] = ..., started: _Optional[str] = ..., updates: _Optional[_Union[UpdateStatus, _Mapping]] = ...) -> None: ...

class UpdateStatus(_message.Message):
    __slots__ = ("directory", "format", "stream", "applied_sequence", "newest_sequence", "packets_behind", "newest_event_ns", "gap_detection", "alarms", "hold", "undo_reaches", "applied_packets", "applied_rows", "erased_rows", "quarantined_packets", "skipped_packets", "unmarked_packets", "visible_seconds", "clock_skew_seconds", "verdicts", "not_ready")
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    APPLIED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    NEWEST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PACKETS_BEHIND_FIELD_NUMBER: _ClassVar[int]
    NEWEST_EVENT_NS_FIELD_NUMBER: _ClassVar[int]
    GAP_DETECTION_FIELD_NUMBER: _ClassVar[int]
    ALARMS_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    UNDO_REACHES_FIELD_NUMBER: _ClassVar[int]
    APPLIED_PACKETS_FIELD_NUMBER: _ClassVar[int]
    APPLIED_ROWS_FIELD_NUMBER: _ClassVar[int]
    ERASED_ROWS_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_PACKETS_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_PACKETS_FIELD_NUMBER: _ClassVar[int]
    UNMARKED_PACKETS_FIELD_NUMBER: _ClassVar[int]
    VISIBLE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    CLOCK_SKEW_SECONDS_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    NOT_READY_FIELD_NUMBER: _ClassVar[int]
    directory: str
    format: str
    stream: str
    applied_sequence: int
    newest_sequence: int
    packets_behind: int
    newest_event_ns: int
    gap_detection: str
    alarms: _containers.RepeatedCompositeFieldContainer[Alarm]
    hold: Hold
    undo_reaches: int
    applied_packets: int
    applied_rows: int
    erased_rows: int
    quarantined_packets: int
    skipped_packets: int
    unmarked_packets: int
    visible_seconds: Histogram
    clock_skew_seconds: float
    verdicts: _containers.RepeatedCompositeFieldContainer[Verdict]
    not_ready: str
    def __init__(self, directory: _Optional[str] = ..., format: _Optional[str] = ..., stream: _Optional[str] = ..., applied_sequence: _Optional[int] = ..., newest_sequence: _Optional[int] = ..., packets_behind: _Optional[int] = ..., newest_event_ns: _Optional[int] = ..., gap_detection: _Optional[str] = ..., alarms: _Optional[_Iterable[_Union[Alarm, _Mapping]]] = ..., hold: _Optional[_Union[Hold, _Mapping]] = ..., undo_reaches: _Optional[int] = ..., applied_packets: _Optional[int] = ..., applied_rows: _Optional[int] = ..., erased_rows: _Optional[int] = ..., quarantined_packets: _Optional[int] = ..., skipped_packets: _Optional[int] = ..., unmarked_packets: _Optional[int] = ..., visible_seconds: _Optional[_Union[Histogram, _Mapping]] = ..., clock_skew_seconds: _Optional[float] = ..., verdicts: _Optional[_Iterable[_Union[Verdict, _Mapping]]] = ..., not_ready: _Optional[str] = ...) -> None: ...

class Alarm(_message.Message):
    __slots__ = ("code", "message", "since_ns")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SINCE_NS_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    since_ns: int
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., since_ns: _Optional[int] = ...) -> None: ...

class Hold(_message.Message):
    __slots__ = ("keep_through", "who", "why")
    KEEP_THROUGH_FIELD_NUMBER: _ClassVar[int]
    WHO_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    keep_through: int
    who: str
    why: str
    def __init__(self, keep_through: _Optional[int] = ..., who: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class Histogram(_message.Message):
    __slots__ = ("bounds", "counts", "count", "sum")
    BOUNDS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SUM_FIELD_NUMBER: _ClassVar[int]
    bounds: _containers.RepeatedScalarFieldContainer[float]
    counts: _containers.RepeatedScalarFieldContainer[int]
    count: int
    sum: float
    def __init__(self, bounds: _Optional[_Iterable[float]] = ..., counts: _Optional[_Iterable[int]] = ..., count: _Optional[int] = ..., sum: _Optional[float] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("sequence", "name", "code", "decision")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    name: str
    code: str
    decision: str
    def __init__(self, sequence: _Optional[int] = ..., name: _Optional[str] = ..., code: _Optional[str] = ..., decision: _Optional[str] = ...) -> None: ...

class FollowNowRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FollowNowResponse(_message.Message):
    __slots__ = ("applied_sequence", "alarms")
    APPLIED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ALARMS_FIELD_NUMBER: _ClassVar[int]
    applied_sequence: int
    alarms: _containers.RepeatedCompositeFieldContainer[Alarm]
    def __init__(self, applied_sequence: _Optional[int] = ..., alarms: _Optional[_Iterable[_Union[Alarm, _Mapping]]] = ...) -> None: ...

class QuarantineRequest(_message.Message):
    __slots__ = ("action", "name")
    class Action(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ACTION_LIST: _ClassVar[QuarantineRequest.Action]
        ACTION_RETRY: _ClassVar[QuarantineRequest.Action]
        ACTION_DROP: _ClassVar[QuarantineRequest.Action]
    ACTION_LIST: QuarantineRequest.Action
    ACTION_RETRY: QuarantineRequest.Action
    ACTION_DROP: QuarantineRequest.Action
    ACTION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    action: QuarantineRequest.Action
    name: str
    def __init__(self, action: _Optional[_Union[QuarantineRequest.Action, str]] = ..., name: _Optional[str] = ...) -> None: ...

class QuarantineResponse(_message.Message):
    __slots__ = ("records",)
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[QuarantineRecord]
    def __init__(self, records: _Optional[_Iterable[_Union[QuarantineRecord, _Mapping]]] = ...) -> None: ...

class QuarantineRecord(_message.Message):
    __slots__ = ("name", "sequence", "code", "reason", "since_ns", "kept_at", "decision")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SINCE_NS_FIELD_NUMBER: _ClassVar[int]
    KEPT_AT_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    name: str
    sequence: int
    code: str
    reason: str
    since_ns: int
    kept_at: str
    decision: str
    def __init__(self, name: _Optional[str] = ..., sequence: _Optional[int] = ..., code: _Optional[str] = ..., reason: _Optional[str] = ..., since_ns: _Optional[int] = ..., kept_at: _Optional[str] = ..., decision: _Optional[str] = ...) -> None: ...
