"""Predicting over files."""
