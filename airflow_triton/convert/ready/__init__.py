"""MLflow's `triton` flavor: a ready Triton model, taken as it is."""
