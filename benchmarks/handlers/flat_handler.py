"""satrap handler: bare arrays decoded by numpy, embeddings from the middleware, TorchScript model.

The same steps as `peers/torchserve_handlers/flat_handler.py`, except that it holds no table.
"""

import json
import os
from pathlib import Path

import numpy as np
import torch

from satrap.batch import IdFeature
from satrap.middleware import LOCAL_ADDRESS, open_lookup


class FlatHandler:
    """Answers a list of probabilities for each request `{"ids": u64 bytes, "dense": f32 bytes}`."""

    def initialize(self, context):
        torch.set_num_threads(1)
        directory = Path(context.system_properties["model_dir"])
        settings = json.loads((directory / "settings.json").read_text())
        self._names, self._dense = settings["feature_names"], settings["dense"]
        self._lookup = open_lookup([LOCAL_ADDRESS], os.environ)
        self._model = torch.jit.load(str(directory / "model.pt")).eval()

    def handle(self, data, context):
        return [self._answer(request) for request in data]

    def _answer(self, request):
        dense, ids = self.decode(request)
        return self.predict(dense, self.look_up(dense, ids))

    def decode(self, request):
        """Dense f32 [samples, dense] and ids u64 [features, samples * n]."""
        dense = np.frombuffer(request["dense"], np.float32).reshape(-1, self._dense)
        return dense, np.frombuffer(request["ids"], np.uint64).reshape(len(self._names), -1)

    def look_up(self, dense, ids):
        """For each feature the sums, float16 [samples, dim]."""
        offsets = np.linspace(0, ids.shape[1], len(dense) + 1, dtype=np.uint32)
        features = [IdFeature(name, values, offsets) for name, values in zip(self._names, ids, strict=True)]
        return [embedding.values for embedding in self._lookup.lookup_features(features)]

    def predict(self, dense, pooled):
        """The list of probabilities."""
        with torch.inference_mode():
            answer = self._model([torch.from_numpy(dense)], [torch.from_numpy(one).float() for one in pooled])
        return answer.tolist()
