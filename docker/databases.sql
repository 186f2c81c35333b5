-- Beside `airflow`, which the image makes.
CREATE DATABASE mlflow;
