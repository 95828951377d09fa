# A node of Slurm with H100 80GB: jobs get its MIG devices but for the one that a service has, and the node is drained around what
# makes or ends slices. docs/slurm.md has what comes of it, and slurm.conf for all nodes from the mine.
containers_gpu_slicing:
  enabled: true
  strategy: mig
  mig:
    profiles: {"3g.40gb": 1, "2g.20gb": 1, "1g.10gb": 2}

containers_gpu_container_integration:
  consumers:
    # Takes one slice of the host, which is then left out of gres.conf.
    trainer:
      kind: service
      unit: trainer.service
      slice: "1g.10gb"
  slurm:
    enabled: true
    path: /etc/slurm/gres.conf
    # How long jobs may take to end; else the change is not begun.
    within: 3000

containers_gpu_state_management:
  # Slices are back before slurmd starts.
  boot: true

# What the master needs to write slurm.conf for all nodes: examples/master/slurm_gpu_nodes.sls.
mine_functions:
  gpu_slurm.gres: []
