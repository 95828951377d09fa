# A node of Slurm: its gres.conf follows the slices, and it is drained around a change, see docs/slurm.md.
containers_gpu_container_integration:
  slurm: {enabled: true, within: 3000}
