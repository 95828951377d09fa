# A host whose GPUs nobody touches. Every host gets this first; a layout that fits it overrides it.
containers_gpu_slicing:
  enabled: false
  strategy: none
