# The GPUs are sliced as the pillar says.
include:
  - .discovery

gpu_slicing_slicing:
  gpu_slicing.converged:
    - require:
      - sls: {{ slsdotpath }}.discovery
