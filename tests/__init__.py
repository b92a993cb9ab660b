"""Tests and benchmarks. Unit tests are pure; tests marked `cluster` use the real development cluster."""
