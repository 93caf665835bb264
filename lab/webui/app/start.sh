#!/bin/sh
# What the process holds on its card is in its own environment, where the host's nvidia-smi reads it: the
# engine's init and commands run beside it in the container hold nothing.
FLEET_LAB_GPU_HELD=$FLEET_LAB_GPU_MEMORY exec python3 /app/webui.py
