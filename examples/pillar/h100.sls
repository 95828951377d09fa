# H100 hosts with 80 GB boards: a large, a middle and two small instances on each GPU.
containers_gpu_slicing:
  enabled: true
  strategy: mig
  mig:
    profiles:
      "3g.40gb": 1
      "2g.20gb": 1
      "1g.10gb": 2
  devices:
    # The NVL board has 94 GB, and other names for the same sizes.
    - match: {model: "NVIDIA H100 NVL"}
      mig:
        profiles: {"3g.47gb": 1, "2g.24gb": 1, "1g.12gb": 2}
