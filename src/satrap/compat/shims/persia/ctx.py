from satrap.compat.context import EmbeddingCtx, InferCtx, PreprocessMode, TrainCtx, eval_ctx

__all__ = ["EmbeddingCtx", "InferCtx", "PreprocessMode", "TrainCtx", "eval_ctx"]
