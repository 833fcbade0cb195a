"""A classifier of small images: raw float32 pixels in, the likeliest class and the model's version out."""

import torch
from ts.torch_handler.base_handler import BaseHandler

SHAPE = (3, 32, 32)


class ImageHandler(BaseHandler):
    def initialize(self, context):
        super().initialize(context)
        self.version = context.manifest["model"]["modelVersion"]

    def preprocess(self, data):
        images = [torch.frombuffer(row["data"], dtype=torch.float32).reshape(SHAPE) for row in data]
        return torch.stack(images)

    def postprocess(self, data):
        return [f"{self.version} {number}" for number in data.argmax(1).tolist()]
