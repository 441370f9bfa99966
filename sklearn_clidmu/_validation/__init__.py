"""Checks and conversions of user input."""
