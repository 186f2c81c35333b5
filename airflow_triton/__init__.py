"""Deploy MLflow models to NVIDIA Triton: converted, validated on the server, promoted without a failed request."""
