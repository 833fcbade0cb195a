"""The contract between processes: TorchServe's inference and management APIs, and satrap's own services."""
