// SPDX-License-Identifier: MIT OR GPL-2.0-only
/* A driver that takes NVIDIA's GPU and offers nothing: no virtual functions without a vGPU manager, and no library answers. */
#include <linux/module.h>

#include "fake_gpus.h"

static int probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	return 0;
}

static const struct pci_device_id ids[] = { { PCI_DEVICE(0x10de, 0x2330) }, {} };
MODULE_DEVICE_TABLE(pci, ids);

static struct pci_driver nvidia_driver = { .name = "nvidia", .id_table = ids, .probe = probe };

module_pci_driver(nvidia_driver);
MODULE_LICENSE("Dual MIT/GPL");
