# A node of Nomad: what its device plugin must not give follows the slices, and it is drained around a change, see docs/nomad.md.
containers_gpu_slicing:
  enabled: true
  strategy: mig
  mig: {profiles: {"1g.10gb": 7}}
containers_gpu_container_integration:
  nomad: {enabled: true, within: 3000}
