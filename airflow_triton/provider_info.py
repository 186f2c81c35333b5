"""What Airflow's provider discovery reads."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """The provider's description, as `airflow/provider_info.schema.json` wants it."""
    integration = "NVIDIA Triton"
    return {
        "package-name": "airflow-provider-triton",
        "name": integration,
        "description": "Deploy MLflow models to NVIDIA Triton: converted, validated on the server, promoted.",
        "integrations": [
            {
                "integration-name": integration,
                "external-doc-url": "https://docs.nvidia.com/deeplearning/triton-inference-server/",
                "tags": ["service"],
            }
        ],
        "operators": [
            {
                "integration-name": integration,
                "python-modules": ["airflow_triton.operators.steps", "airflow_triton.operators.deploy"],
            }
        ],
        "sensors": [{"integration-name": integration, "python-modules": ["airflow_triton.sensors.ready"]}],
        "hooks": [{"integration-name": integration, "python-modules": ["airflow_triton.hooks.triton"]}],
        "connection-types": [
            {
                "connection-type": "triton",
                "hook-class-name": "airflow_triton.hooks.triton.TritonHook",
                "hook-name": integration,
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "login", "extra"],
                    "relabeling": {"host": "URL", "password": "Token"},
                    "placeholders": {"host": "http://triton:8000"},
                },
                "conn-fields": {
                    "control_mode": {
                        "label": "Control mode",
                        "description": "the server's --model-control-mode",
                        "schema": {"type": ["string", "null"], "enum": ["explicit", "poll", "none"], "default": "explicit"},
                    },
                    "protocol": {
                        "label": "Protocol",
                        "description": "where the host is no URL",
                        "schema": {"type": ["string", "null"], "enum": ["http", "grpc"], "default": "http"},
                    },
                    "tls": {
                        "label": "TLS",
                        "description": "where the host is no URL",
                        "schema": {"type": ["boolean", "null"], "default": False},
                    },
                },
            }
        ],
    }
