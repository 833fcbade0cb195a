"""TorchServe's REST APIs on top of the model service: inference, management, metrics.

A pure ASGI application (`app`) that uvicorn runs in the frontend's loop (`listener`). It asks its routes in turn
(`inference`, `management`, `metrics_route`), each of which takes a request or passes it on, as TorchServe's handlers
do; so several APIs can share an address. No framework is between: TorchServe's paths (empty segments, any suffix,
`/{model}/predict`) do not fit a table of routes, and a prediction would pay for objects that it does not need.
"""
