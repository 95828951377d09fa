# The pillar is valid, and the GPUs that it names are there.
gpu_slicing_discovery:
  gpu_slicing.discovered
