"""Use case: bare hosts to a working service."""
