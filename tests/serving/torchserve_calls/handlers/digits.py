"""TorchServe's MNIST example: an eager model, one digit out."""

import torch
from ts.torch_handler.base_handler import BaseHandler


class DigitHandler(BaseHandler):
    def preprocess(self, data):
        rows = [row.get("data") or row.get("body") for row in data]
        return torch.stack([torch.tensor(list(bytes(row)), dtype=torch.float32) for row in rows]) / 255

    def postprocess(self, data):
        return data.argmax(1).tolist()
