"""Model repositories on object stores: S3 and what speaks its protocol, Google Cloud Storage, Azure Blob Storage.

`repository` is the repository itself; `address` where it lies; `connect` who lets us in; `probe` what the store can be trusted with;
`lease` the lock; `transfer` the bytes; `faults` what goes wrong.
"""

from airflow_triton.repository.object_store.address import StoreAddress
from airflow_triton.repository.object_store.connect import Connection, Deadlines
from airflow_triton.repository.object_store.repository import ObjectRepository

__all__ = ["Connection", "Deadlines", "ObjectRepository", "StoreAddress"]
