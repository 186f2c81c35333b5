"""Airflow's operators: one for each step of the pipeline, one for all of it, and one for the way back.

They are thin: each opens a rollout of its spec, calls one step, and answers plain JSON.
"""
