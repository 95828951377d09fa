# The hardware, read again, is what the pillar says.
include:
  - .slicing

gpu_slicing_validation:
  gpu_slicing.validated:
    - require:
      - sls: {{ slsdotpath }}.slicing
