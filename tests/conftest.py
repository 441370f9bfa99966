"""Settings that must stand before anything is imported."""

import os

# SciPy reads it once; without it scikit-learn skips its check of array API inputs.
os.environ["SCIPY_ARRAY_API"] = "1"
