// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The partition files of amdgpu on an MI300X, written from what its users see. The compute mode changes at once, if nobody has a
 * node of the GPU open. A memory mode is a request, carried out when the driver lets go of the GPU; the mode then decides the
 * compute mode that the driver begins with. As newer drivers do, it lists the compute modes that are valid in the memory mode of
 * now, and all in compute_partition_config. There is no compute driver (KFD), and as with the real one no virtual functions.
 */
#include <linux/module.h>

#include "fake_gpus.h"

struct gpu {
	struct pci_dev *pdev;
	struct mutex lock;
	const struct mode *mode;
	/* Whose memory modes compute_partition_config shows. */
	const struct mode *selected;
	u8 requested;
};

/* Memory modes that go with a compute mode, one bit for NPS1 and one for NPS4. */
static const struct mode {
	const char *name;
	u8 domains;
} modes[] = { { "SPX", BIT(1) }, { "DPX", BIT(1) }, { "QPX", BIT(1) | BIT(4) }, { "CPX", BIT(1) | BIT(4) } };

static u8 memory_mode(struct pci_dev *pdev)
{
	u8 mode;

	pci_read_config_byte(pdev, FAKE_MEMORY_MODE, &mode);
	return mode;
}

static ssize_t current_compute_partition_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct gpu *gpu = dev_get_drvdata(dev);

	return sysfs_emit(buf, "%s\n", gpu->mode->name);
}

static int set_mode(struct gpu *gpu, const struct mode *mode)
{
	if (!(mode->domains & BIT(memory_mode(gpu->pdev))))
		return -EINVAL;
	if (mode == gpu->mode)
		return 0;
	/* One for the open node; the file that is written here holds no module. */
	if (module_refcount(THIS_MODULE) > 0)
		return -EBUSY;
	gpu->mode = mode;
	return 0;
}

static ssize_t current_compute_partition_store(struct device *dev, struct device_attribute *attr, const char *buf, size_t count)
{
	struct gpu *gpu = dev_get_drvdata(dev);
	int i, err = -EINVAL;

	mutex_lock(&gpu->lock);
	for (i = 0; i < ARRAY_SIZE(modes); i++)
		if (sysfs_streq(buf, modes[i].name))
			err = set_mode(gpu, &modes[i]);
	mutex_unlock(&gpu->lock);
	return err ?: count;
}
static DEVICE_ATTR_RW(current_compute_partition);

/* The compute modes that go with one of these memory modes. */
static ssize_t list_modes(char *buf, u8 domains)
{
	const char *sep = "";
	ssize_t size = 0;
	int i;

	for (i = 0; i < ARRAY_SIZE(modes); i++) {
		if (!(modes[i].domains & domains))
			continue;
		size += sysfs_emit_at(buf, size, "%s%s", sep, modes[i].name);
		sep = ", ";
	}
	return size + sysfs_emit_at(buf, size, "\n");
}

static ssize_t available_compute_partition_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return list_modes(buf, BIT(memory_mode(to_pci_dev(dev))));
}
static DEVICE_ATTR_RO(available_compute_partition);

static ssize_t supported_xcp_configs_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return list_modes(buf, 0xff);
}
static DEVICE_ATTR_RO(supported_xcp_configs);

static ssize_t xcp_config_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct gpu *gpu = dev_get_drvdata(dev);

	return sysfs_emit(buf, "%s\n", gpu->selected->name);
}

static ssize_t xcp_config_store(struct device *dev, struct device_attribute *attr, const char *buf, size_t count)
{
	struct gpu *gpu = dev_get_drvdata(dev);
	int i;

	for (i = 0; i < ARRAY_SIZE(modes); i++) {
		if (!sysfs_streq(buf, modes[i].name))
			continue;
		gpu->selected = &modes[i];
		return count;
	}
	return -EINVAL;
}
static DEVICE_ATTR_RW(xcp_config);

static ssize_t supported_nps_configs_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct gpu *gpu = dev_get_drvdata(dev);

	return sysfs_emit(buf, gpu->selected->domains & BIT(4) ? "NPS1, NPS4\n" : "NPS1\n");
}
static DEVICE_ATTR_RO(supported_nps_configs);

static ssize_t current_memory_partition_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "NPS%u\n", memory_mode(to_pci_dev(dev)));
}

static ssize_t current_memory_partition_store(struct device *dev, struct device_attribute *attr, const char *buf, size_t count)
{
	struct gpu *gpu = dev_get_drvdata(dev);

	if (sysfs_streq(buf, "NPS1"))
		gpu->requested = 1;
	else if (sysfs_streq(buf, "NPS4"))
		gpu->requested = 4;
	else
		return -EINVAL;
	return count;
}
static DEVICE_ATTR_RW(current_memory_partition);

static ssize_t available_memory_partition_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "NPS1, NPS4\n");
}
static DEVICE_ATTR_RO(available_memory_partition);

static struct attribute *partition_attrs[] = {
	&dev_attr_current_compute_partition.attr,
	&dev_attr_available_compute_partition.attr,
	&dev_attr_current_memory_partition.attr,
	&dev_attr_available_memory_partition.attr,
	NULL,
};

static struct attribute *config_attrs[] = {
	&dev_attr_supported_xcp_configs.attr,
	&dev_attr_xcp_config.attr,
	&dev_attr_supported_nps_configs.attr,
	NULL,
};

static const struct attribute_group partition_group = { .attrs = partition_attrs };
static const struct attribute_group config_group = { .name = "compute_partition_config", .attrs = config_attrs };
static const struct attribute_group *partition_groups[] = { &partition_group, &config_group, NULL };

static int probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct gpu *gpu = devm_kzalloc(&pdev->dev, sizeof(*gpu), GFP_KERNEL);

	if (!gpu)
		return -ENOMEM;
	gpu->pdev = pdev;
	mutex_init(&gpu->lock);
	gpu->mode = memory_mode(pdev) == 4 ? &modes[3] : &modes[0];
	gpu->selected = gpu->mode;
	pci_set_drvdata(pdev, gpu);
	return fake_gpus_add_nodes(pdev, THIS_MODULE);
}

static void remove(struct pci_dev *pdev)
{
	struct gpu *gpu = pci_get_drvdata(pdev);

	if (gpu->requested)
		pci_write_config_byte(pdev, FAKE_MEMORY_MODE, gpu->requested);
}

static const struct pci_device_id ids[] = { { PCI_DEVICE(0x1002, 0x74a1) }, {} };
MODULE_DEVICE_TABLE(pci, ids);

static struct pci_driver amdgpu_driver = {
	.name = "amdgpu",
	.id_table = ids,
	.probe = probe,
	.remove = remove,
	.dev_groups = partition_groups,
};

module_pci_driver(amdgpu_driver);
MODULE_LICENSE("Dual MIT/GPL");
