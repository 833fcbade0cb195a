"""The two configuration files, read once into frozen values. No part of satrap reads the environment for them."""

from satrap.config.contradictions import contradictions
from satrap.config.embedding_config import (
    EmbeddingConfig,
    HashStackConfig,
    SlotConfig,
    load_embedding_config,
)
from satrap.config.global_config import (
    EmbeddingServerConfig,
    GlobalConfig,
    GuardrailsConfig,
    MiddlewareConfig,
    ModelConfig,
    ServingConfig,
    TrainerConfig,
    UpdatesConfig,
    load_global_config,
)
from satrap.config.index_prefixes import index_prefixes

__all__ = [
    "EmbeddingConfig",
    "EmbeddingServerConfig",
    "GlobalConfig",
    "GuardrailsConfig",
    "HashStackConfig",
    "MiddlewareConfig",
    "ModelConfig",
    "ServingConfig",
    "SlotConfig",
    "TrainerConfig",
    "UpdatesConfig",
    "contradictions",
    "index_prefixes",
    "load_embedding_config",
    "load_global_config",
]
