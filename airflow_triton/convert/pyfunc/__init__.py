"""Any MLflow model by Triton's Python backend: its own folder, `served/model.py` that asks it, and its packages."""
