# Hosts of a room with little power: each board draws 80 % of its vendor's limit at most, whatever slices it. The cap comes back
# after a boot; 'gpu_power.status' tells what is asked of each board and what is in force.
containers_gpu_slicing:
  enabled: true
  power:
    percent: 80
containers_gpu_state_management:
  boot: true
