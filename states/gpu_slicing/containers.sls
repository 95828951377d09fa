# Those who use slices have theirs, and every CDI name leads to what is there.
include:
  - .validation

gpu_slicing_containers:
  gpu_consumer.reached:
    - require:
      - sls: {{ slsdotpath }}.validation
