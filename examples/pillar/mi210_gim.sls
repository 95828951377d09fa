# One virtual function of each MI210, which is all that it can have: kept in /etc/modprobe.d, so that it stays. gim may be
# reloaded where the number has to change; guests stand in the way of that and are named.
containers_gpu_slicing:
  enabled: true
  strategy: sriov
  sriov:
    vf_count: 1
containers_gpu_state_management:
  unload_modules: [gim]
