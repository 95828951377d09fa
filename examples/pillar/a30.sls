# A30 hosts: one half and two quarters on each GPU.
containers_gpu_slicing:
  enabled: true
  strategy: mig
  mig:
    profiles: ["2g.12gb", "1g.6gb", "1g.6gb"]
