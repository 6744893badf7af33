"""``facegraph serve``: brings the service up on this machine in a Ray instance of its own."""
