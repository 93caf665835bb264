"""GPUs as the hosts' nvidia-smi reports them, and the slots they make."""
