# A host with a Flex 170 and a Max 1550: an environment file below /etc/gpu-slicing/environment for each partition, which services
# load with 'EnvironmentFile='. Devices count in the order of their PCI addresses, here 0 for the Flex and 1 for the Max, whose
# two tiles are partitions of their own. This is a convention among programs, not isolation.
containers_gpu_slicing:
  enabled: true
  strategy: level-zero
  level_zero:
    partitions: ["0", "1.0", "1.1"]
    ccs_mode: 2                        # two compute engines, each with half of the compute slices
  devices:
    - match: {model: "Intel Data Center GPU Flex 170*"}
      level_zero:
        engines: {ccs: {timeslice_duration_us: 2000}}
        vram_max_mib: 8192             # what everything in gpu-batch.slice may take of it
        vram_slice: gpu-batch.slice
