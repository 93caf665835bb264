"""`fleet lb`: the balancers' configuration shown, compared, checked and brought into use.

It is made as `fleet provision` makes it: from the playbook's own balancer tasks, the user's variables and
templates, and what the GPU hosts are found to have.
"""
