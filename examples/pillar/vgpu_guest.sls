# Virtual machines that have NVIDIA vGPUs: the driver gets its licence from this server.
containers_gpu_slicing:
  enabled: true
  strategy: vgpu
  vgpu:
    license_server: licence.example.com
    feature: compute
    # A client configuration token instead of a server belongs into an encrypted pillar:
    # client_token: |
