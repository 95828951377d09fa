# MI300X hosts: eight partitions on each GPU, each with its own compute die; two of them share a quarter of the memory.
containers_gpu_slicing:
  enabled: true
  strategy: partition
  partition:
    compute: CPX             # each GPU's own; SPX is the GPU in one piece
    memory: NPS4             # one for all GPUs of an XGMI hive, so it can't differ between rules for its GPUs
containers_gpu_state_management:
  # The memory mode comes into force only when the driver is loaded anew. This allows it; every GPU of the driver must be idle.
  unload_modules: [amdgpu]
  # Monitoring holds the GPUs open all the time: it is stopped for the change and started again.
  stop_units: [amd-metrics-exporter.service, gpuagent.service]
