"""Label noise before training: each label against the rows around it."""
