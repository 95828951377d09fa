# Data Center GPU Max with the i915 backport: two virtual functions for virtual machines on each card, one of each tile.
containers_gpu_slicing:
  enabled: true
  strategy: sriov
  sriov:
    vf_count: 2
