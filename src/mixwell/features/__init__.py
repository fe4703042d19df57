"""The only code that looks into a model: hooks, layer names, feature maps, passes that leave no trace."""
