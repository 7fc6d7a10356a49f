"""A real Kubernetes of one node, of Debian's packages and sources: what `scripts/test_cluster` installs on."""
