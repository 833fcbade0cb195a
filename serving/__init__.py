"""TorchServe's serving: a frontend with TorchServe's APIs, model archives, and forked workers that run handlers.

`satrap.serving.server` runs it; `satrap.serving.handler`, `.torch_handler`, `.context` and `.prediction` are what
handlers import. Importing this package imports none of them.
"""
