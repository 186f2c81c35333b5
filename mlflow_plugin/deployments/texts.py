"""What `mlflow deployments help` prints, and what is said where a call has no meaning on Triton."""

from __future__ import annotations

_HELP = """Deploy to NVIDIA Triton, validated on the server before it serves.

Target URIs:
  triton                   the servers of TRITON_URL (http://host:8000, grpc://host:8001; several: separated by commas)
  triton://host:8000       this server, over HTTP
  tritons://host:8000      this server, over HTTPS
  triton:grpc://host:8001  this server, by its URL (http, https, grpc, grpcs); several, separated by commas, are a fleet
  triton:/CONNECTION       the server of this Airflow connection

The model repository is TRITON_MODEL_REPO (a folder, s3://bucket/prefix, s3://http://host:port/bucket/prefix, gs://..., as://...),
or -C repository=...

To be let in by servers that are named by a URL: TRITON_TOKEN (a bearer token), TRITON_HEADERS (NAME=VALUE,NAME=VALUE), and for TLS
TRITON_CA, TRITON_CERT and TRITON_KEY (PEM files).

-C KEY=VALUE sets any key of the spec: -C config.max_batch_size=64, -C validate.metrics.accuracy.min=0.9, -C promote.alias=champion.
-C spec=FILE starts from a spec file; --name and --model-uri are set over it.

  mlflow deployments create -t triton --name iris -m models:/iris@challenger -C convert.to=onnx
  mlflow deployments update -t triton --name iris -m models:/iris/8
  mlflow deployments predict -t triton --name iris -I rows.json
  mlflow deployments delete -t triton --name iris
  mlflow deployments list -t triton
  mlflow deployments run-local -t triton --name iris -m models:/iris/8

run-local starts a Triton of this machine's own, deploys to it, and serves until Ctrl-C. It takes -C http_port=N, -C grpc_port=N and
-C with=torch (or tensorflow); without -C repository=FOLDER its files are gone at the end.

An endpoint is a Triton that runs already: --endpoint URL, or the id of an Airflow connection, in place of the target's servers.
"""

NO_EXPLAIN = (
    "Triton answers predictions and has no explanations: load the model with mlflow.pyfunc.load_model and explain that (mlflow.evaluate "
    "with the explainability of SHAP, say), or deploy the explainer as a model of its own"
)
NO_STREAM = "predict_stream is not for this target: one question has one answer here; ask a decoupled model with Triton's own gRPC stream"
_NO_ENDPOINT = (
    "an endpoint of this target is a Triton that runs already, so there is nothing to {what}. {instead}; `list_endpoints` shows those of "
    "the target"
)


def no_endpoint(what: str, instead: str) -> str:
    """Why an endpoint cannot be made, changed or removed here."""
    return _NO_ENDPOINT.format(what=what, instead=instead)


def target_help() -> str:
    """What `mlflow deployments help -t triton` prints."""
    return _HELP
