# B200 hosts: two halves on each GPU, pinned. The second half is shared by three compute instances of one memory.
containers_gpu_slicing:
  enabled: true
  strategy: mig
  mig:
    profiles:
      - "3g.90gb@0"
      - "1c.3g.90gb@4"
      - "1c.3g.90gb@4"
      - "1c.3g.90gb@4"
