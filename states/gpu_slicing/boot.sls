# A unit brings the verified layout back at every boot, before the consumers of slices start.
include:
  - .validation

gpu_slicing_boot:
  gpu_boot.enabled:
    - require:
      - sls: {{ slsdotpath }}.validation
