# Whole GPUs for virtual machines: every GPU of this host is bound to vfio-pci, and its device node /dev/vfio/<group> can be given
# to one. Needs the IOMMU. 'salt-call gpu_passthrough.release' gives a GPU back to its own driver.
containers_gpu_slicing:
  enabled: true
  strategy: passthrough
