"""The estimator ring: what a user of scikit-learn meets."""
