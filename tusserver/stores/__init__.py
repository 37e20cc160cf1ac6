"""Stores keep records and bytes, and decide nothing."""
