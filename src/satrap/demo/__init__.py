"""The main job on data made on the spot: train, checkpoint, archive, serve, compare. `satrap demo` runs it."""
