"""The names of headers that mean something to serving; over gRPC they are metadata."""

__all__ = [
    "DESCRIBE_HEADER",
    "SEQUENCE_END_HEADER",
    "SEQUENCE_ID_HEADER",
    "SEQUENCE_START_HEADER",
    "STALENESS_HEADER",
    "STALE_HEADER",
    "TIMING_HEADER",
]

DESCRIBE_HEADER = "describe"
"""With this request header a handler is asked for its own description."""

SEQUENCE_ID_HEADER = "ts_request_sequence_id"
"""The request header under which a handler finds the sequence id of a gRPC request, TorchServe's name."""

SEQUENCE_START_HEADER = "ts_request_sequence_start"
SEQUENCE_END_HEADER = "ts_request_sequence_end"
"""TorchServe's names for the headers of a sequence's first and last request, which handlers may look up."""

STALE_HEADER = "satrap-stale"
"""The response header, over gRPC the trailing metadata, of an answer made from embeddings that may be out of date."""

STALENESS_HEADER = "satrap-staleness-ms"
"""The same for how old the newest training event in those embeddings is, in milliseconds."""

TIMING_HEADER = "satrap-timing"
"""A request that has it gets it with its answer: milliseconds by name, as JSON."""
