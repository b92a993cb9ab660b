"""Samplers: the default, and Optuna's behind one adapter. Each implements controlplane.model.ports.Sampler."""
