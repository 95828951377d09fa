# Hosts of virtual machines with NVIDIA's vGPU host driver: H100 GPUs carry vGPUs of 10 GB, as many as fit.
containers_gpu_slicing:
  enabled: true
  strategy: vgpu
  vgpu:
    profile: H100XM-10C
    scheduler: equal-share
  devices:
    # Types with a MIG instance to themselves: MIG is switched on and cut for them.
    - match: {model: "NVIDIA A100*"}
      vgpu:
        profile: ""
        profiles: {"A100D-3-40C": 1, "A100D-1-10C": 2}
        scheduler: ""
    - match: {model: "*T4*"}
      vgpu:
        profile: T4-4Q
        count: 3
        scheduler: ""
