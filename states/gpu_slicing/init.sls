# Everything that a highstate does to the GPUs of a host, stage by stage. A stage that fails stops the next.
include:
  - .discovery
  - .slicing
  - .validation
