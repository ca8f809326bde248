"""Decides which fold task runs where and when; knows no torch."""
