# Hosts with L40S: three consumers run side by side on each GPU, one with half of its multiprocessors and memory, two with a
# quarter each. A consumer with 'weight: 2' gets a share of at least that weight. From driver 615 on the MPS daemon enforces each
# share; an older one enforces the largest, and the smaller ones are in the environment of those who have them.
# 'gpu_consumer.list' tells which holds.
containers_gpu_slicing:
  enabled: true
  strategy: mps
  mps:
    share_policy: weighted
    weights: [2, 1, 1]
containers_gpu_container_integration:
  consumers:
    trainer: {kind: device, slice: {kind: mps}, weight: 2}
    batch: {kind: device, slice: {kind: mps}}
