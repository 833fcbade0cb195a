"""A handler in the form of PERSIA's oldest tutorial: a client class, and TrainCtx for the tensors."""

import os

import torch
from persia.ctx import TrainCtx
from persia.prelude import PersiaEmbeddingClientPyClass
from ts.torch_handler.base_handler import BaseHandler


class ScoreHandler(BaseHandler):
    def initialize(self, context):
        super().initialize(context)
        self.client = PersiaEmbeddingClientPyClass(0, [os.environ["MIDDLEWARE_SERVICE"]])
        self.ctx = TrainCtx()

    def preprocess(self, data):
        found = self.client.batch_to_device_dirct(bytes(data[0].get("batch")), 0)
        model_input, _ = self.ctx.prepare_features(found, is_training=False)
        return model_input

    def inference(self, data, *args, **kwargs):
        dense, embeddings = data
        with torch.no_grad():
            return self.model(dense, embeddings)

    def postprocess(self, data):
        return [data.reshape(-1).tolist()]
