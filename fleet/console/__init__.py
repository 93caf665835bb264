"""Tables, live progress, JSON; the only place that imports rich."""
