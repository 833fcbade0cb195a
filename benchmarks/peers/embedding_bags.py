"""Times embedding bags whose row numbers are known: torch's, and FBGEMM's where that is installed.

Run as a script, by `peers.fbgemm`, in the interpreter that has them: it prints one JSON object, ns/id of every round.
"""

import argparse
import importlib.util
import json
import time
from collections.abc import Callable

import numpy as np
import torch

_BAG = 32
"""Ids of one sample and feature, as in the other benchmarks; 1 copies rows and adds nothing."""


def _draws(
    random: np.random.Generator, rows: int, exponent: float, shape: tuple[int, int]
) -> np.typing.NDArray[np.int64]:
    if exponent == 0:
        return random.integers(0, rows, shape)
    cumulative = np.cumsum(np.arange(1, rows + 1, dtype=np.float64) ** -exponent)
    ranks = np.searchsorted(cumulative, random.random(shape) * cumulative[-1], side="right")
    popular: np.typing.NDArray[np.int64] = random.permutation(rows)[np.minimum(ranks, rows - 1)]
    return popular


def _torch_bag(weights: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    def bag(ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.embedding_bag(ids, weights, offsets, mode="sum", include_last_offset=True)

    return bag


def _fbgemm_bag(weights: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    from fbgemm_gpu.split_embedding_configs import SparseType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
    from fbgemm_gpu.split_table_batched_embeddings_ops_inference import (
        IntNBitTableBatchedEmbeddingBagsCodegen,
    )

    rows, dim = weights.shape
    bag = IntNBitTableBatchedEmbeddingBagsCodegen(
        [("table", rows, dim, SparseType.FP32, EmbeddingLocation.HOST)],
        pooling_mode=PoolingMode.SUM,
        output_dtype=SparseType.FP32,
        device="cpu",
    )
    bag.fill_random_weights()
    bag.split_embedding_weights()[0][0].view(torch.float32).copy_(weights)
    return bag


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser()
    for name in ("rows", "dim", "batches", "batch-ids", "rounds", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--exponent", type=float, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    random = np.random.default_rng(given.seed)
    weights = torch.from_numpy(random.standard_normal((given.rows, given.dim), dtype=np.float32))
    makers = {"torch embedding_bag": (_torch_bag, torch.int64)}
    if importlib.util.find_spec("fbgemm_gpu") is not None:
        import fbgemm_gpu  # noqa: F401  (registers the operators)

        makers["fbgemm table-batched embedding"] = (_fbgemm_bag, torch.int32)
    shape = (given.batches, given.batch_ids)
    result: dict[str, dict[str, list[float]]] = {}
    for draw, exponent in (("uniform", 0.0), ("zipf", given.exponent)):
        rows = torch.from_numpy(_draws(random, given.rows, exponent, shape))
        ways: dict[str, Callable[[], None]] = {}
        for name, (make, dtype) in makers.items():
            bag, ids = make(weights), rows.to(dtype)
            for size in (1, _BAG):
                offsets = torch.arange(0, given.batch_ids + 1, size, dtype=dtype)
                wanted = weights[rows[0]].reshape(-1, size, given.dim).sum(1)
                if not torch.allclose(bag(ids[0], offsets), wanted, atol=1e-4):
                    raise SystemExit(f"{name} answers other sums than the table has")

                def run(
                    bag: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = bag,
                    ids: torch.Tensor = ids,
                    offsets: torch.Tensor = offsets,
                ) -> None:
                    for batch in ids:
                        bag(batch, offsets)

                ways[f"{name}, {'bags of ' + str(size) if size > 1 else 'rows'}"] = run
        times: dict[str, list[float]] = {name: [] for name in ways}
        with torch.inference_mode():
            for _ in range(given.rounds):
                for name, run_once in ways.items():
                    start = time.perf_counter()
                    run_once()
                    times[name].append((time.perf_counter() - start) * 1e9 / rows.numel())
        result[draw] = times
    print(json.dumps(result))


if __name__ == "__main__":
    main()
