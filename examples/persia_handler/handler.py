"""A handler as PERSIA's users write it: their names, their steps, served by satrap without a change.

torch-model-archiver --model-name deepctr --version 1.0 --serialized-file deepctr.pt --handler handler.py
"""

from persia.ctx import InferCtx
from persia.service import get_embedding_worker_services
from ts.torch_handler.base_handler import BaseHandler


class DeepCtrHandler(BaseHandler):
    """Batch bytes in, one click probability a sample out."""

    def initialize(self, context):
        """Load the TorchScript model and connect to the embeddings."""
        super().initialize(context)
        self.embeddings = InferCtx(get_embedding_worker_services(), device_id=0)
        self.embeddings.wait_for_serving()

    def preprocess(self, data):
        """Look the ids of the request up."""
        batch = self.embeddings.get_embedding_from_bytes(bytes(data[0]["batch"]), 0)
        dense, embeddings, _ = self.embeddings.prepare_features(batch)
        return dense, [embedding.float() for embedding in embeddings]

    def inference(self, data, *args, **kwargs):
        """Run the model."""
        return self.model(*data)

    def postprocess(self, data):
        """One list a request; TorchServe's JSON is what the client reads."""
        return [data.reshape(-1).tolist()]
