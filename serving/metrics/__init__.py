"""What `GET /metrics` tells: TorchServe's metrics, satrap's own, and those of handlers.

One registry (`families`), which belongs to the frontend's loop and takes no lock; `text` writes it in Prometheus' text
format. Not prometheus-client's classes: they put `_total` behind every counter's name, and TorchServe's dashboards ask
for `Requests2XX`. `server_metrics` is told about requests (`satrap.serving.observer`), `calls` about calls of all APIs,
`handler_table` about what handlers report, `system` about the machine.
"""
