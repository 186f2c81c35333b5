"""Airflow's triggers: what a triggerer waits for. They carry names, never a secret; what they tell is a hint: who asked looks himself."""
