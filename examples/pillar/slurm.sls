# A node of Slurm: its gres.conf follows the slices, and it is drained around a change, see docs/slurm.md.
containers_gpu_slicing:
  enabled: true
  strategy: mig
  mig: {profiles: {"1g.10gb": 7}}
containers_gpu_container_integration:
  slurm: {enabled: true, within: 3000}
