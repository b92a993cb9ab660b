"""Fits the constants on published rows, chooses by held-out groups, scores every table and keeps the intervals."""
