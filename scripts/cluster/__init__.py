"""A real Kubernetes of one node, made of Debian's packages and sources: what `scripts/test_cluster` installs the chart on."""
