# A node of Nomad: what its device plugin must not give follows the slices, and it is drained around a change, see docs/nomad.md.
containers_gpu_container_integration:
  nomad: {enabled: true, within: 3000}
