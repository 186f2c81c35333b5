"""Models that PyTorch runs, to ONNX and TorchScript: PyTorch itself, transformers, and Keras on PyTorch."""
