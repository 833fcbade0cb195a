"""A gRPC server on the frontend's own event loop, for the calls that must be quick.

`http2` keeps the state of a connection and does no I/O, `messages` knows gRPC's own framing, `connection` owns a
client's socket and runs its calls (`call`), `server` owns the port. grpc.aio's server has a thread of its own that
wakes the loop for each step of a call; here what arrives is read, parsed and answered by the loop, in half of the time
(docs/architecture.md).
"""
