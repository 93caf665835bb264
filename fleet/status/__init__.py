"""`fleet status`: one look at every host, summed up as hosts, slots and balancers."""
