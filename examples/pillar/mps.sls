# Hosts with L40S, which have no MIG: four consumers run side by side on each GPU, each of their processes with a quarter of its
# multiprocessors and memory at most, which the MPS daemon of the GPU enforces. 'salt-call gpu.slices' lists them, such as
# 0000:41:00.0-mps-1. 'gpu_mps.status' tells what the daemons say.
containers_gpu_slicing:
  enabled: true
  strategy: mps
  mps:
    max_instance_count: 4
    exclusive: true                    # no program computes beside the daemon; false lets others in
