#!/usr/bin/env bash
# What there must be before the servers start. It is safe to run again.
set -euo pipefail

airflow db migrate
airflow users create --role Admin --username admin --password "$AIRFLOW_ADMIN_PASSWORD" \
    --firstname Admin --lastname Admin --email admin@localhost
airflow pools set gpu "$GPU_SLOTS" "TensorRT builds at a time"
# Triton does not start on a prefix of a store that holds nothing.
python -c 'import os; from airflow_triton.repository import open_repository; open_repository(os.environ["TRITON_MODEL_REPO"]).make()'
