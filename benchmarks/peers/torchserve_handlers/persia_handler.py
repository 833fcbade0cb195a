"""TorchServe handler: PERSIA's bytes decoded by satrap's native decoder, rows looked up by numpy, TorchScript model."""

import json
import sys
from pathlib import Path

import numpy_table
import torch


class PersiaHandler:
    """Answers a list of probabilities for each request `{"batch": PERSIA's bytes}`."""

    def initialize(self, context):
        torch.set_num_threads(1)
        directory = Path(context.system_properties["model_dir"])
        settings = json.loads((directory / "settings.json").read_text())
        sys.path.insert(0, settings["satrap_path"])
        from satrap.batch import decode

        self._decode = decode
        self._table = getattr(numpy_table, settings["table"])(Path(settings["table_directory"]))
        self._model = torch.jit.load(str(directory / "model.pt")).eval()

    def handle(self, data, context):
        return [self._answer(request) for request in data]

    def _answer(self, request):
        dense, ids = self.decode(request)
        return self.predict(dense, self.look_up(dense, ids))

    def decode(self, request):
        """Dense f32 [samples, dense] and a list of ids u64 [samples * n] by feature."""
        batch = self._decode(request["batch"])
        dense = batch.non_id_features()[0][1]
        return dense, [batch.id_feature(index)[1] for index in range(len(batch.feature_names))]

    def look_up(self, dense, ids):
        """For each feature the sums, f32 [samples, dim]."""
        return [self._table.pooled(feature, values, len(dense)) for feature, values in enumerate(ids)]

    def predict(self, dense, pooled):
        """The list of probabilities."""
        with torch.inference_mode():
            answer = self._model([torch.from_numpy(dense)], [torch.from_numpy(one) for one in pooled])
        return answer.tolist()
