# H200 hosts: seven equal instances on each GPU.
containers_gpu_slicing:
  enabled: true
  strategy: mig
  mig:
    profiles: ["1g.18gb"]
    gpu_instance_count: 7
