# No GPU of the host has anything wrong that is known. By itself, or after the stages of gpu_slicing: they do not include it, since
# it reads every GPU anew.
gpu_slicing_health:
  gpu_slicing.healthy
