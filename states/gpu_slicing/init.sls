# Everything that a highstate does to the GPUs of a host, stage by stage. A stage that fails stops the next.
include:
  - .discovery
  - .slicing
  - .validation
{%- if salt["pillar.get"]("containers_gpu_state_management:boot", False) is sameas true %}
  - .boot
{%- endif %}
