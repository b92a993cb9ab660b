"""Tests on real parts: the development cluster's API server, kubelets and engines."""
