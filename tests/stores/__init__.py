"""Real object stores for the tests, and a proxy that makes them fail on purpose."""

from stores.proxy import Proxy, Request, Rule, on
from stores.rclone import RcloneS3
from stores.seaweed import SeaweedFS

__all__ = ["Proxy", "RcloneS3", "Request", "Rule", "SeaweedFS", "on"]
