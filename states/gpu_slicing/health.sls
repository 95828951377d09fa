# No GPU or slice of the host has failed. By itself, or after the stages of gpu_slicing: they do not include it, since it reads
# every GPU anew.
gpu_slicing_health:
  gpu_health.healthy
