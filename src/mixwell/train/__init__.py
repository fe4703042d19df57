"""The training program: ``mixwell train RECIPE``. Nothing in the library imports it."""
