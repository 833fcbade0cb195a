"""TorchServe's keys: what each is here, or why it changes nothing."""

from collections.abc import Mapping

__all__ = ["ITS_OWN", "KEYS", "NO_EFFECT"]

KEYS: Mapping[str, str] = {
    "inference_address": "address of the REST inference API; https: by TLS; unix:/path: a Unix socket",
    "management_address": "address of the REST management API; https: by TLS; unix:/path: a Unix socket",
    "metrics_address": "address of /metrics; https: by TLS; unix:/path: a Unix socket",
    "grpc_inference_address": "address of the gRPC inference API",
    "grpc_inference_port": "port of the gRPC inference API",
    "grpc_management_address": "address of the gRPC management API",
    "grpc_management_port": "port of the gRPC management API",
    "grpc_inference_max_connection_age_ms": "after which a connection of the gRPC inference API is closed",
    "grpc_inference_max_connection_age_grace_ms": "how long its calls may go on then",
    "grpc_management_max_connection_age_ms": "after which a connection of the gRPC management API is closed",
    "grpc_management_max_connection_age_grace_ms": "how long its calls may go on then",
    "enable_grpc_ssl": "both gRPC APIs by TLS",
    "certificate_file": "serving.tls.certificate",
    "private_key_file": "serving.tls.private_key",
    "keystore": "serving.tls.keystore: PKCS12; of another format the error says how to make it",
    "keystore_pass": "serving.tls.keystore_password; snapshots do not keep it",
    "keystore_type": "PKCS12, or JKS, which in Java means either; what the file is counts",
    "enable_metrics_api": "false: no /metrics",
    "model_store": "--model-store",
    "load_models": "--models",
    "models": "models.NAME.versions",
    "model_snapshot": "registered at the start in place of load_models",
    "default_workers_per_model": "serving.default_workers_per_model",
    "number_of_gpu": "serving.gpus",
    "debug": "true: one worker per startup model",
    "job_queue_size": "serving.job_queue_size",
    "default_response_timeout": "serving.default_response_timeout_seconds",
    "default_startup_timeout": "serving.default_startup_timeout_seconds",
    "unregister_model_timeout": "serving.unregister_model_timeout_seconds",
    "max_request_size": "serving.max_request_bytes",
    "max_response_size": "serving.max_response_bytes",
    "enable_model_api": "serving.model_api",
    "allowed_urls": "serving.allowed_urls; unset, no URL is allowed",
    "use_env_allowed_urls": "allowed_urls may come from the environment",
    "disable_token_authorization": "serving.token.enabled: false",
    "token_expiration_min": "serving.token.expiration_minutes",
    "install_py_dep_per_model": "serving.install_requirements",
    "decode_input_request": "serving.decode_input_request",
    "limit_max_image_pixels": "serving.limit_max_image_pixels",
    "blacklist_env_vars": "serving.hidden_environment",
    "metrics_mode": "serving.metrics_mode",
    "metrics_config": "serving.metrics_config",
    "model_metrics_auto_detect": "serving.metrics_auto_detect",
    "disable_system_metrics": "serving.system_metrics: false",
    "metric_time_interval": "serving.system_metrics_seconds",
    "cors_allowed_origin": "serving.cors.allowed_origin",
    "cors_allowed_methods": "serving.cors.allowed_methods",
    "cors_allowed_headers": "serving.cors.allowed_headers",
    "enable_envvars_config": "keys may come from the environment",
    "service_envelope": "refused: request envelopes are not served",
    "satrap_insecure": "--insecure",
}
"""Keys that count, and what they are in global_config.yaml or on the command line; all but the last TorchServe's."""

NO_EFFECT: Mapping[str, str] = {
    **dict.fromkeys(("number_of_netty_threads", "netty_client_threads"), "one event loop serves every API"),
    **dict.fromkeys(("prefer_direct_buffer", "vmargs", "use_native_io", "io_ratio"), "there is no Java"),
    "async_logging": "lines are written as they come",
    **dict.fromkeys(("initial_worker_port", "initial_distribution_port"), "workers have no ports"),
    **dict.fromkeys(
        ("cpu_launcher_enable", "cpu_launcher_args", "ipex_enable", "ipex_gpu_enable"),
        "workers are forked from one process, without Intel's launcher and extension",
    ),
    "workflow_store": "there are no workflows",
    **dict.fromkeys(("plugins_path", "cpp_log_config"), "there are no plugins and no C++ workers"),
    "default_service_handler": "handlers come from the archives",
    "ts_open_inference_protocol": "KServe's gRPC protocol is not served",
    **dict.fromkeys(
        ("ts_header_key_sequence_id", "ts_header_key_sequence_start", "ts_header_key_sequence_end"),
        "there is no sequence batching",
    ),
    "system_metrics_cmd": "the frontend reads /proc itself",
}
"""Keys of TorchServe that are read and change nothing, and why."""

ITS_OWN = frozenset({"version", "tsConfigFile", "python", "model_server_home"})
"""What TorchServe writes into its snapshots about itself."""
