"""Use case: what is up, and how it does."""
