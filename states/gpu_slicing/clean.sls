# The host is given up: each GPU as it was first found, and nothing of gpu_slicing left. By itself: the stages do not include it.
gpu_slicing_clean:
  gpu_slicing.cleaned
