# Hosts with a scheduler: what ends slices is changed in the nights of the weekend only, on GPUs that nobody uses, and around it
# the node is drained and resumed. What waits is told by 'gpu_slicing.waiting'. To be laid over a pillar that says what is wanted.
containers_gpu_state_management:
  when: window
  maintenance_window:
    days: [sat, sun]
    hours: "22:00-04:00"
    zone: Europe/Berlin
  before:
    # Returns when the last job of the node has ended, or fails; then the change is not begun.
    - command: [/usr/local/sbin/gpu-node, drain, --wait]
      timeout: 1800
  after:
    # Reads in GPU_SLICING_RESULT what came of it, and leaves the node drained unless that is ok or undone.
    - command: [/usr/local/sbin/gpu-node, resume]
      timeout: 60
