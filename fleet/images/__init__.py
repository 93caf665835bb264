"""`fleet image`: the service's images on every host: what is there, fetched ahead, cleared away."""
