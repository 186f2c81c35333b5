"""Models that are asked as scikit-learn's are, to ONNX: scikit-learn itself, XGBoost, LightGBM and CatBoost."""
