/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
#ifndef FAKE_GPUS_H
#define FAKE_GPUS_H

#include <linux/pci.h>

/* A register of our own in a GPU's configuration space: what it remembers while no driver is loaded. */
#define FAKE_MEMORY_MODE 0x80

/* Give a function /dev/dri/card<n> and renderD<n> until its driver lets it go; who opens one, holds the module. */
int fake_gpus_add_nodes(struct pci_dev *pdev, struct module *driver);

#endif
