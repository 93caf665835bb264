"""fleet keeps a translation service up on GPU hosts: provision, balance, upgrade."""

__version__ = "0.1.0"
