# Everything that a highstate does to the GPUs of a host, stage by stage. A stage that fails stops the next.
include:
  - .discovery
  - .slicing
  - .validation
{%- set integration = salt["pillar.get"]("containers_gpu_container_integration", {}) %}
{%- if integration is mapping and ("cdi" in integration or "consumers" in integration) %}
  - .containers
{%- endif %}
{%- if salt["pillar.get"]("containers_gpu_state_management:boot", False) is sameas true %}
  - .boot
{%- endif %}
{%- if salt["pillar.get"]("containers_gpu_state_management:metrics:enabled", False) is sameas true %}
  - .metrics
{%- endif %}
