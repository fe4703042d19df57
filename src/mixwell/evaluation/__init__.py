"""Measures of a trained classifier beyond accuracy: calibration, selective prediction, robustness. Needs torch only."""
