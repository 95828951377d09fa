# Which host gets which layout, told by what the host has: the grain 'gpu' of this project.
#
# A minion has that grain from its first 'saltutil.sync_grains' (or the sync at its start) on. Until then only '*' matches,
# which does nothing. See what a host has with 'salt <minion> grains.get gpu:models'.
#
# In a compound match a space ends a word, so '?' (any character) stands for it. A host with several models gets one file
# that knows them all, instead of two files that are merged.
base:
  '*':
    - pillar.none

  'gpu:models:NVIDIA A30*':
    - match: grain
    - pillar.a30

  'G@gpu:models:NVIDIA?A100* and not G@gpu:models:NVIDIA?H100* and not G@gpu:capabilities:vgpu':
    - match: compound
    - pillar.a100

  'G@gpu:models:NVIDIA?H100* and not G@gpu:models:NVIDIA?A100* and not G@gpu:capabilities:vgpu':
    - match: compound
    - pillar.h100

  'G@gpu:models:NVIDIA?H100* and G@gpu:models:NVIDIA?A100* and not G@gpu:capabilities:vgpu':
    - match: compound
    - pillar.mixed

  'gpu:models:NVIDIA H200*':
    - match: grain
    - pillar.h200

  'gpu:models:NVIDIA B200*':
    - match: grain
    - pillar.b200

  'gpu:models:NVIDIA RTX PRO 6000*':
    - match: grain
    - pillar.rtx_pro_6000

  # Boards without MIG are shared, in time or by MPS.
  'gpu:models:NVIDIA L4':
    - match: grain
    - pillar.time_slicing

  'G@gpu:models:NVIDIA?L40S and not G@gpu:vram_quota:nvml':
    - match: compound
    - pillar.mps

  # By what memory of GPUs can be limited: a test bench of all vendors that has both means.
  'G@gpu:vram_quota:nvml and G@gpu:vram_quota:dmem':
    - match: compound
    - pillar.memory_limits

  # Where NVIDIA's vGPU host driver is loaded, and in guests that have a vGPU: the grain has 'vgpu' only there.
  'G@gpu:capabilities:vgpu and not G@gpu:virtualization:virtual_guest':
    - match: compound
    - pillar.vgpu_host

  'G@gpu:capabilities:vgpu and G@gpu:virtualization:virtual_guest':
    - match: compound
    - pillar.vgpu_guest

  'G@gpu:models:AMD?Instinct?MI300X* and not G@gpu:vendors:nvidia':
    - match: compound
    - pillar.mi300x

  # A host with GPUs of several vendors gets one file that knows them all, so this one is for Intel alone.
  'G@gpu:vendors:intel and not G@gpu:vendors:nvidia and not G@gpu:vendors:amd and not G@gpu:capabilities:sriov':
    - match: compound
    - pillar.level_zero

  # Virtual functions, where the driver offers any: the grain has 'sriov' only then.
  'G@gpu:models:Intel?Data?Center?GPU?Flex?170* and G@gpu:capabilities:sriov':
    - match: compound
    - pillar.flex170

  'G@gpu:models:Intel?Data?Center?GPU?Max* and G@gpu:capabilities:sriov':
    - match: compound
    - pillar.max1550

  'G@gpu:models:Intel?Arc?Pro?B60* and G@gpu:capabilities:sriov':
    - match: compound
    - pillar.arc_pro_b60

  'G@gpu:models:AMD?Instinct?MI210* and G@gpu:capabilities:sriov':
    - match: compound
    - pillar.mi210_gim

  # By a grain of your own: whether GPUs are for virtual machines is nothing that the hardware tells.
  'gpu_role:passthrough':
    - match: grain
    - pillar.passthrough

  # And who gets which slice is nothing that it tells either.
  'gpu_role:consumers':
    - match: grain
    - pillar.consumers

  'gpu_role:weights':
    - match: grain
    - pillar.mps_weights

  # Who gives slices to jobs or pods.
  'gpu_role:slurm':
    - match: grain
    - pillar.slurm

  'gpu_role:kubernetes':
    - match: grain
    - pillar.kubernetes

  'gpu_role:nomad':
    - match: grain
    - pillar.nomad

  'gpu_role:layouts':
    - match: grain
    - pillar.layouts

  'gpu_role:batch':
    - match: grain
    - pillar.maintenance

  'gpu_role:slurm_mig':
    - match: grain
    - pillar.slurm_mig

  'gpu_role:capped':
    - match: grain
    - pillar.power

  # By what GPUs can do instead of what they are called: every host with a MIG-capable GPU keeps its health check.
  'gpu:capabilities:mig':
    - match: grain
    - pillar.careful
