{#- What slurm.conf says of GPU nodes, for the controller and all nodes, which need the same: by what each node tells the mine, and
    by the pillar slurm_gpu_nodes. A node that has told nothing yet stops it: left out, it would be gone from the cluster, and its
    jobs with it. See docs/slurm.md. -#}
{%- set nodes = pillar.get("slurm_gpu_nodes", {}) %}
{%- set told = salt["mine.get"](nodes | join(","), "gpu_slurm.gres", "list") if nodes else {} %}
{%- set silent = nodes | reject("in", told) | sort | join(",") %}
{%- if not nodes %}
slurm_gpu_nodes:
  test.fail_without_changes:
    - name: "The pillar has no slurm_gpu_nodes, which is minion -> what slurm.conf says of it beside Gres: CPUs=64 RealMemory=515000"
{%- elif silent %}
slurm_gpu_nodes:
  test.fail_without_changes:
    - name: "Nothing is in the mine from {{ silent }}. Run: salt -L '{{ silent }}' mine.send gpu_slurm.gres"
{%- else %}
slurm_gpu_nodes:
  file.managed:
    - name: /etc/slurm/gpu-nodes.conf
    - source: salt://{{ tpldir }}/slurm_gpu_nodes.conf
    - template: jinja
    - mode: "0644"
    - context: {{ {"nodes": nodes, "told": told} | json }}
{%- if salt["service.available"]("slurmctld") %}

# Another count is not taken by 'scontrol reconfigure'.
slurmctld:
  service.running:
    - watch:
      - file: slurm_gpu_nodes
{%- endif %}
{%- endif %}
