"""Model archives: reading manifests, unpacking, the model store, and writing."""
