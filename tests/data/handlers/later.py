"""A handler in the form of PERSIA's later releases: InferCtx."""

import torch
from persia.ctx import InferCtx
from persia.service import get_embedding_worker_services
from ts.torch_handler.base_handler import BaseHandler

device_id = 0 if torch.cuda.is_available() else None


class ScoreHandler(BaseHandler):
    def initialize(self, context):
        super().initialize(context)
        self.ctx = InferCtx(get_embedding_worker_services(), device_id=device_id)
        self.ctx.wait_for_serving()

    def preprocess(self, data):
        found = self.ctx.get_embedding_from_bytes(bytes(data[0].get("batch")), device_id)
        return self.ctx.prepare_features(found)

    def inference(self, data, *args, **kwargs):
        dense, embeddings, _ = data
        with torch.no_grad():
            return self.model(dense, embeddings)

    def postprocess(self, data):
        return [data.reshape(-1).tolist()]
