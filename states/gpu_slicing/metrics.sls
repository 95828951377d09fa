# What there is of GPUs and slices is written for Prometheus every few seconds.
include:
  - .validation

gpu_slicing_metrics:
  gpu_metrics.exported:
    - require:
      - sls: {{ slsdotpath }}.validation
