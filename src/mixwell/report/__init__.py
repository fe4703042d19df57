"""Everything that draws: the report page, tables, training curves, and pictures of policies and masks."""
