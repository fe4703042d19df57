"""Everything that looks into a model: hooks, layer names, passes that leave no trace."""
