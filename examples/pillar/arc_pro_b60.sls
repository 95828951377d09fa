# Three virtual functions of different size on an Arc Pro B60: one large, two that share the rest, with turns of 20 ms.
containers_gpu_slicing:
  enabled: true
  strategy: sriov
  sriov:
    vf_count: 3
    profile: fair
    scheduling: {exec_quantum_ms: 20, preempt_timeout_us: 20000}
    vfs:
      1: {vram_mib: 12288, exec_quantum_ms: 40}
