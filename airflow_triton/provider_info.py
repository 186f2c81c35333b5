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
                "python-modules": [f"airflow_triton.operators.{module}" for module in ("approve", "data", "deploy", "steps")],
            }
        ],
        "sensors": [
            {"integration-name": integration, "python-modules": ["airflow_triton.sensors.ready", "airflow_triton.sensors.registry"]}
        ],
        "triggers": [
            {
                "integration-name": integration,
                "python-modules": [
                    "airflow_triton.triggers.ready",
                    "airflow_triton.triggers.registry",
                    "airflow_triton.triggers.waiting",
                ],
            }
        ],
        "extra-links": [
            f"airflow_triton.operators.links.{link}" for link in ("ValidationReportLink", "ModelVersionLink", "TritonModelLink")
        ],
        "asset-uris": [
            {
                "schemes": ["triton"],
                "handler": "airflow_triton.assets.sanitize_uri",
                "to_openlineage_converter": "airflow_triton.assets.openlineage_dataset",
            }
        ],
        "hooks": [{"integration-name": integration, "python-modules": ["airflow_triton.hooks.triton"]}],
        "config": {
            "triton": {
                "description": "Deployments to NVIDIA Triton.",
                "options": {
                    "registry_poll_seconds": {
                        "description": "how often the triggerer lists an MLflow registry for the deployments with `schedule: registry`, "
                        "once for all of them, in seconds",
                        "version_added": "0.1.0",
                        "type": "float",
                        "example": "10",
                        "default": "30",
                    },
                },
            },
            "triton_webhook": {
                "description": "The receiver of MLflow's webhooks in the API server. Its secret is AIRFLOW_TRITON_WEBHOOK_SECRET in the "
                "environment, or the password of the connection triton_webhook; without one it is not served.",
                "options": {
                    "specs": {
                        "description": "the folder of the deployments' specs; else `deployments` in the DAGs folder",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "/opt/airflow/dags/deployments",
                        "default": "",
                    },
                    "journal": {
                        "description": "the file that keeps the accepted deliveries; else `triton-webhook.db` in AIRFLOW_HOME",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "/var/lib/airflow/triton-webhook.db",
                        "default": "",
                    },
                },
            },
        },
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
                    "secret_headers": {
                        "label": "Headers",
                        "description": "NAME=VALUE, separated by commas; sent with every request",
                        "schema": {"type": ["string", "null"], "format": "password"},
                    },
                    "ca": {
                        "label": "Authorities",
                        "description": "a PEM file on each worker; else the system's",
                        "schema": {"type": ["string", "null"]},
                    },
                    "certificate": {
                        "label": "Client certificate",
                        "description": "a PEM file on each worker",
                        "schema": {"type": ["string", "null"]},
                    },
                    "key": {
                        "label": "Client key",
                        "description": "a PEM file on each worker; else in the certificate's file",
                        "schema": {"type": ["string", "null"]},
                    },
                },
            }
        ],
    }
