"""The main job on data made on the spot: train, serve, train on, compare. `satrap demo` runs it."""
