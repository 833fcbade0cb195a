"""TorchServe's image classifier as its examples write one: pixels in, the likeliest labels out."""

import base64
import io

import torch
from PIL import Image
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import map_class_to_label


class ImageHandler(BaseHandler):
    topk = 3

    def preprocess(self, data):
        images = []
        for row in data:
            image = row.get("data") or row.get("body")
            if isinstance(image, str):
                image = base64.b64decode(image)
            if isinstance(image, bytes | bytearray):
                pixels = list(Image.open(io.BytesIO(image)).convert("RGB").getdata())
                images.append(torch.tensor(pixels, dtype=torch.float32).T.reshape(3, 8, 8) / 255)
            else:
                images.append(torch.tensor(image, dtype=torch.float32))
        return torch.stack(images).to(self.device)

    def postprocess(self, data):
        values, classes = torch.topk(torch.softmax(data, dim=1), self.topk, dim=1)
        rounded = (values * 1e4).round() / 1e4
        return map_class_to_label(rounded.tolist(), self.mapping, classes.tolist())
