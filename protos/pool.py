"""The descriptor pool that TorchServe's two files are registered in.

A client of TorchServe has generated modules of its own for the same packages. Two copies in protobuf's
default pool end the process with `duplicate symbol`, so satrap's copies live in a pool of their own
(`scripts/protos` puts it into the generated code). The well-known types that they use are added here.
"""

from google.protobuf import any_pb2, descriptor_pool, empty_pb2
from google.rpc import status_pb2

__all__ = ["TORCHSERVE"]


def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for module in (any_pb2, empty_pb2, status_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    return pool


TORCHSERVE = _pool()
