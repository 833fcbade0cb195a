"""TorchServe handler: bare arrays decoded by numpy, rows looked up by numpy, TorchScript model."""

import json
from pathlib import Path

import numpy as np
import numpy_table
import torch


class FlatHandler:
    """Answers a list of probabilities for each request `{"ids": u64 bytes, "dense": f32 bytes}`."""

    def initialize(self, context):
        torch.set_num_threads(1)
        directory = Path(context.system_properties["model_dir"])
        settings = json.loads((directory / "settings.json").read_text())
        self._features, self._dense = len(settings["feature_names"]), settings["dense"]
        self._table = getattr(numpy_table, settings["table"])(Path(settings["table_directory"]))
        self._model = torch.jit.load(str(directory / "model.pt")).eval()

    def handle(self, data, context):
        return [self._answer(request) for request in data]

    def _answer(self, request):
        dense, ids = self.decode(request)
        return self.predict(dense, self.look_up(dense, ids))

    def decode(self, request):
        """Dense f32 [samples, dense] and ids u64 [features, samples * n]."""
        dense = np.frombuffer(request["dense"], np.float32).reshape(-1, self._dense)
        return dense, np.frombuffer(request["ids"], np.uint64).reshape(self._features, -1)

    def look_up(self, dense, ids):
        """For each feature the sums, f32 [samples, dim]."""
        return [self._table.pooled(feature, values, len(dense)) for feature, values in enumerate(ids)]

    def predict(self, dense, pooled):
        """The list of probabilities."""
        with torch.inference_mode():
            answer = self._model([torch.from_numpy(dense)], [torch.from_numpy(one) for one in pooled])
        return answer.tolist()
