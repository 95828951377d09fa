# Hosts with L4, which have no MIG: four consumers take turns on each GPU. Nothing isolates their memory, and no share of the time
# is enforced. 'salt-call gpu.slices' lists the replicas, such as 0000:41:00.0-replica-1.
containers_gpu_slicing:
  enabled: true
  strategy: time-slicing
  time_slicing:
    max_instance_count: 4
    slice_duration: 50ms               # NVIDIA's driver has four steps; the plan says which one this comes to
