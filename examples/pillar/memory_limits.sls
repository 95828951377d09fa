# Limits of GPU memory for three services, each on a GPU of another vendor: examples/hosts/memory-limits.yaml is such a host. Who
# enforces each one is told by 'state.apply gpu_slicing test=True'; on a host that can't, the plan says that it is advisory.
containers_gpu_slicing:
  enabled: true
  strategy: none
containers_gpu_container_integration:
  consumers:
    trainer: {kind: service, unit: trainer.service, slice: {gpu: "0000:41:00.0"}, resource_limits: {vram_mib: 16384}}
    infer: {kind: service, unit: infer.service, slice: {gpu: "0000:3d:00.0"}, resource_limits: {vram_mib: 65536}}
    render: {kind: service, unit: render.service, slice: {gpu: "0000:8a:00.0"}, resource_limits: {vram_mib: 8192}}
containers_gpu_state_management:
  boot: true
