# A DGX H100 whose slices are handed out: to a container, a service, a login user, and by a CDI name to whoever uses it.
#
# 'salt-call gpu_consumer.list' tells who has what, docs/consumers.md what each of them finds.
containers_gpu_slicing:
  enabled: true
  strategy: mig
  mig:
    profiles:
      "3g.40gb": 1
      "2g.20gb": 1
      "1g.10gb": 2

containers_gpu_container_integration:
  # Of containers that say nothing else.
  resource_limits:
    memory_gb: 16
    compute_units: 4
    gpu_instances: 1
  consumers:
    # Podman runs it: gpu-slicing-assistant.service, from a Quadlet unit of ours.
    assistant:
      kind: container
      image: registry.example/assistant:1
      slice: "3g.40gb"
      resource_limits: {memory_gb: 64, compute_units: 16}
      quadlet:
        Container:
          PublishPort: 127.0.0.1:8000:8000
          Secret: assistant-token
          Volume: assistant-models:/models
    # A service that is there already gets a drop-in.
    trainer:
      kind: service
      unit: trainer.service
      slice: "3g.40gb"
      resource_limits: {memory_gb: 128}
    # All that this user runs can open this slice and no other.
    ada:
      kind: user
      user: ada
      slice: {memory_mib: 15000}
    # Nothing of ours runs with it: 'podman run --device gpu-slicing/consumer=builds ...'.
    builds:
      slice: "1g.10gb"

containers_gpu_state_management:
  # Slices and names are gone after a reboot: this brings them back before those start who use them.
  boot: true
