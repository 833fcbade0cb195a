"""A text classifier as TorchServe's examples write one: a vocabulary beside the model, words counted, two classes."""

import json
from pathlib import Path

import torch
from ts.torch_handler.base_handler import BaseHandler


class SentimentHandler(BaseHandler):
    def initialize(self, context):
        super().initialize(context)
        folder = Path(context.system_properties["model_dir"])
        self.vocabulary = json.loads((folder / "vocabulary.json").read_text())

    def preprocess(self, data):
        counts = torch.zeros(len(data), len(self.vocabulary))
        for number, row in enumerate(data):
            text = row.get("data") or row.get("body")
            text = text.decode() if isinstance(text, bytes | bytearray) else text
            for word in text.lower().split():
                if word in self.vocabulary:
                    counts[number, self.vocabulary[word]] += 1
        return counts

    def postprocess(self, data):
        likely = torch.softmax(data, dim=1)
        return [
            {self.mapping[str(column)]: round(float(value), 4) for column, value in enumerate(row)}
            for row in likely
        ]
