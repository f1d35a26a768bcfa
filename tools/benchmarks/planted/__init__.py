"""Healthy detectors and attacks, and broken ones, to try checks on."""
