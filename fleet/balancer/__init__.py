"""HAProxy: rendering its configuration, reading and steering it at run time."""
