"""The rows that a candidate is asked: where they come from, read in parts, and found to fit before anything is staged."""

from airflow_triton.validation.data.dataset import PART_ROWS, Dataset, Part
from airflow_triton.validation.data.places import Places
from airflow_triton.validation.data.reading import prepare

__all__ = ["PART_ROWS", "Dataset", "Part", "Places", "prepare"]
