"""What a client of a served model needs: batches in PERSIA's form, and clients of TorchServe's gRPC APIs.

    from satrap.client import IDTypeFeature, InferenceClient, NonIDTypeFeature, PersiaBatch

No torch. Errors are those of `satrap.errors`.
"""

from satrap.client.aio import AsyncInferenceClient
from satrap.client.deployment import Deployed
from satrap.client.descriptions import ModelDescription, ModelEntry, ModelPage, SparseNeed, WorkerDescription
from satrap.client.features import (
    MAX_BATCH_SIZE,
    IDTypeFeature,
    IDTypeFeatureWithSingleID,
    Label,
    NdarrayDataBase,
    NonIDTypeFeature,
)
from satrap.client.inference import InferenceClient
from satrap.client.management import ManagementClient
from satrap.client.persia_batch import PersiaBatch
from satrap.client.retry import DEFAULT_RETRY, NO_RETRY, Retry
from satrap.tls import Tls

__all__ = [
    "AsyncInferenceClient",
    "DEFAULT_RETRY",
    "Deployed",
    "IDTypeFeature",
    "IDTypeFeatureWithSingleID",
    "InferenceClient",
    "Label",
    "MAX_BATCH_SIZE",
    "ManagementClient",
    "ModelDescription",
    "ModelEntry",
    "ModelPage",
    "NO_RETRY",
    "NdarrayDataBase",
    "NonIDTypeFeature",
    "PersiaBatch",
    "Retry",
    "SparseNeed",
    "Tls",
    "WorkerDescription",
]
