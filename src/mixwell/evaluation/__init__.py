"""Measures of a trained classifier beyond accuracy: calibration, selective prediction, robustness, localization.

They need torch only, but localization also needs SciPy, and AutoAttack its own package.
"""
