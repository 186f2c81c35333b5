"""MLflow's `onnx` flavor, and what every ONNX graph goes through: files, declarations, opsets."""
