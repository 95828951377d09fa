# RTX PRO 6000 Blackwell hosts: one half that can do graphics, and two quarters for computing.
containers_gpu_slicing:
  enabled: true
  strategy: mig
  mig:
    profiles: ["2g.48gb+gfx", "1g.24gb", "1g.24gb"]
