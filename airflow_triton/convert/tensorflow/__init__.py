"""MLflow's `tensorflow` flavor, and Keras on TensorFlow: to ONNX, and as a SavedModel."""
