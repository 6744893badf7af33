"""The contract of /v1 over gRPC: the same endpoints, called in this process."""
