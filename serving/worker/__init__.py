"""The worker's side of serving: a forked process that runs one version of one model."""
