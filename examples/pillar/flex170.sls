# Five virtual desktops on each Flex 170, as the vendor's tool would divide it: the preset gives each its memory and its turns.
# The functions stay unbound, for vfio-pci.
containers_gpu_slicing:
  enabled: true
  strategy: sriov
  sriov:
    vf_count: 5
    profile: Flexible_30fps
