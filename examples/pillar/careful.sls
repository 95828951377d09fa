# How changes are made: only on idle, healthy GPUs, checked afterwards, and a reboot is only ever reported.
containers_gpu_state_management:
  apply_strategy: auto
  reboot_required: false
  validation: true
  health_check: true
