"""Triton, Dynamo and the gateway as processes of one machine: what `scripts/serve` and the tests start."""
