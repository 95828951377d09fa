// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Three GPUs without hardware, in the PCI core of a real kernel: a root bus of its own (domain 0010) whose configuration space is
 * memory. The SR-IOV files, their errors, events and IOMMU groups are the kernel's. For tests in a virtual machine: the IOMMU
 * that comes along translates nothing, and can't be unloaded. Written for Linux 6.1.
 */
#include <linux/cdev.h>
#include <linux/fs.h>
#include <linux/iommu.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/slab.h>

#include "fake_gpus.h"

#define DOMAIN 0x10
#define EXPRESS 0x40
#define SRIOV 0x100
#define NODES 256

struct model {
	u16 vendor, device, vf_device;
	u32 class;
	u8 devfn, vfs;
};

static const struct model models[] = {
	{ 0x1002, 0x74a1, 0x74b5, 0x120000, PCI_DEVFN(0, 0), 8 },	/* Instinct MI300X */
	{ 0x8086, 0x56c0, 0x56c0, 0x038000, PCI_DEVFN(4, 0), 31 },	/* Data Center GPU Flex 170 */
	{ 0x10de, 0x2330, 0x2330, 0x030200, PCI_DEVFN(8, 0), 16 },	/* H100 */
};

/* Configuration space of each function, and whether it answers: a VF does only while it is enabled. */
static u8 *space[256];
static bool answers[256];

static struct platform_device *parent;
static struct pci_bus *bus;
static struct pci_sysdata sysdata = { .domain = DOMAIN, .node = NUMA_NO_NODE };

/* -- configuration space --------------------------------------------------------------------------------------------- */
static void set16(u8 *to, u16 value)
{
	*(__le16 *)to = cpu_to_le16(value);
}

static void set32(u8 *to, u32 value)
{
	*(__le32 *)to = cpu_to_le32(value);
}

static u16 get16(const u8 *from)
{
	return le16_to_cpup((const __le16 *)from);
}

static int config_read(struct pci_bus *on, unsigned int devfn, int where, int size, u32 *value)
{
	if (on->number || !answers[devfn]) {
		*value = ~0;
		return PCIBIOS_DEVICE_NOT_FOUND;
	}
	*value = 0;
	memcpy(value, space[devfn] + where, size);
	return PCIBIOS_SUCCESSFUL;
}

static void switch_vfs(unsigned int pf, const u8 *capability)
{
	bool on = get16(capability + PCI_SRIOV_CTRL) & PCI_SRIOV_CTRL_VFE;
	int i, total = get16(capability + PCI_SRIOV_TOTAL_VF), wanted = get16(capability + PCI_SRIOV_NUM_VF);

	for (i = 0; i < total; i++)
		answers[pf + 1 + i] = on && i < wanted;
}

/* Everything is read only but what is named here. There are no BARs: writes to them are ignored, so the kernel finds none. */
static int config_write(struct pci_bus *on, unsigned int devfn, int where, int size, u32 value)
{
	if (on->number || !answers[devfn])
		return PCIBIOS_DEVICE_NOT_FOUND;
	switch (where) {
	case PCI_COMMAND:
	case FAKE_MEMORY_MODE:
	case SRIOV + PCI_SRIOV_CTRL:
	case SRIOV + PCI_SRIOV_NUM_VF:
	case SRIOV + PCI_SRIOV_SYS_PGSIZE:
		memcpy(space[devfn] + where, &value, size);
	}
	if (where == SRIOV + PCI_SRIOV_CTRL)
		switch_vfs(devfn, space[devfn] + SRIOV);
	return PCIBIOS_SUCCESSFUL;
}

static struct pci_ops config = { .read = config_read, .write = config_write };

static int fill(unsigned int devfn, const struct model *model, bool is_vf)
{
	u8 *to = space[devfn] = kzalloc(PCI_CFG_SPACE_EXP_SIZE, GFP_KERNEL);

	if (!to)
		return -ENOMEM;
	set16(to + PCI_VENDOR_ID, is_vf ? 0xffff : model->vendor);
	set16(to + PCI_DEVICE_ID, is_vf ? 0xffff : model->device);
	set32(to + PCI_CLASS_REVISION, model->class << 8 | 1);
	set16(to + PCI_SUBSYSTEM_VENDOR_ID, model->vendor);
	set16(to + PCI_SUBSYSTEM_ID, 0x1234);
	set16(to + PCI_STATUS, PCI_STATUS_CAP_LIST);
	to[PCI_CAPABILITY_LIST] = EXPRESS;
	to[EXPRESS] = PCI_CAP_ID_EXP;
	set16(to + EXPRESS + PCI_EXP_FLAGS, 2 | PCI_EXP_TYPE_RC_END << 4);
	if (is_vf)
		return 0;
	to[FAKE_MEMORY_MODE] = 1;
	set32(to + SRIOV, PCI_EXT_CAP_ID_SRIOV | 1 << 16);
	set16(to + SRIOV + PCI_SRIOV_INITIAL_VF, model->vfs);
	set16(to + SRIOV + PCI_SRIOV_TOTAL_VF, model->vfs);
	set16(to + SRIOV + PCI_SRIOV_VF_OFFSET, 1);
	set16(to + SRIOV + PCI_SRIOV_VF_STRIDE, 1);
	set16(to + SRIOV + PCI_SRIOV_VF_DID, model->vf_device);
	set32(to + SRIOV + PCI_SRIOV_SUP_PGSIZE, 0x553);
	set32(to + SRIOV + PCI_SRIOV_SYS_PGSIZE, 1);
	answers[devfn] = true;
	return 0;
}

static int fill_all(void)
{
	int i, vf, err;

	for (i = 0; i < ARRAY_SIZE(models); i++)
		for (vf = 0; vf <= models[i].vfs; vf++) {
			err = fill(models[i].devfn + vf, &models[i], vf);
			if (err)
				return err;
		}
	return 0;
}

/* -- an IOMMU that does nothing, or vfio-pci would not take a function -------------------------------------------------- */
static struct iommu_device iommu;

static bool iommu_capable(struct device *dev, enum iommu_cap cap)
{
	return true;
}

static int domain_attach(struct iommu_domain *domain, struct device *dev)
{
	return 0;
}

static void domain_detach(struct iommu_domain *domain, struct device *dev)
{
}

static int domain_map(struct iommu_domain *domain, unsigned long iova, phys_addr_t at, size_t size, int prot, gfp_t gfp)
{
	return 0;
}

static size_t domain_unmap(struct iommu_domain *domain, unsigned long iova, size_t size, struct iommu_iotlb_gather *gather)
{
	return size;
}

static void domain_free(struct iommu_domain *domain)
{
	kfree(domain);
}

static struct iommu_domain *domain_alloc(unsigned int type)
{
	return kzalloc(sizeof(struct iommu_domain), GFP_KERNEL);
}

static struct iommu_device *probe_device(struct device *dev)
{
	return dev_is_pci(dev) && pci_domain_nr(to_pci_dev(dev)->bus) == DOMAIN ? &iommu : ERR_PTR(-ENODEV);
}

static void release_device(struct device *dev)
{
}

static int default_type(struct device *dev)
{
	return IOMMU_DOMAIN_IDENTITY;
}

static const struct iommu_ops iommu_operations = {
	.capable = iommu_capable,
	.domain_alloc = domain_alloc,
	.probe_device = probe_device,
	.release_device = release_device,
	.device_group = generic_device_group,
	.def_domain_type = default_type,
	.pgsize_bitmap = PAGE_SIZE,
	.owner = THIS_MODULE,
	.default_domain_ops = &(const struct iommu_domain_ops) {
		.attach_dev = domain_attach,
		.detach_dev = domain_detach,
		.map = domain_map,
		.unmap = domain_unmap,
		.free = domain_free,
	},
};

/* -- device nodes, in a class named drm while the kernel's own is not loaded -------------------------------------------- */
struct nodes {
	struct cdev *cdev[2];
	int number;
};

static const int first_minor[2] = { 0, 128 };
static const char *const node_names[2] = { "card%d", "renderD%d" };
static struct class *drm;
static dev_t region;
static DEFINE_IDA(numbers);
static const struct file_operations node_operations = { .owner = THIS_MODULE, .llseek = noop_llseek };

static char *node_path(struct device *dev, umode_t *mode)
{
	return kasprintf(GFP_KERNEL, "dri/%s", dev_name(dev));
}

static void remove_nodes(void *data)
{
	struct nodes *nodes = data;
	int i;

	for (i = 0; i < 2; i++) {
		if (!nodes->cdev[i])
			continue;
		device_destroy(drm, nodes->cdev[i]->dev);
		cdev_del(nodes->cdev[i]);
	}
	ida_free(&numbers, nodes->number);
}

static int add_node(struct device *parent, struct nodes *nodes, int i, struct module *driver)
{
	int minor = first_minor[i] + nodes->number, err;
	struct cdev *cdev = cdev_alloc();
	struct device *dev;

	if (!cdev)
		return -ENOMEM;
	cdev->owner = driver;
	cdev->ops = &node_operations;
	err = cdev_add(cdev, region + minor, 1);
	if (err) {
		kobject_put(&cdev->kobj);
		return err;
	}
	nodes->cdev[i] = cdev;
	dev = device_create(drm, parent, region + minor, NULL, node_names[i], minor);
	return PTR_ERR_OR_ZERO(dev);
}

int fake_gpus_add_nodes(struct pci_dev *pdev, struct module *driver)
{
	struct nodes *nodes = devm_kzalloc(&pdev->dev, sizeof(*nodes), GFP_KERNEL);
	int i, err;

	if (!nodes)
		return -ENOMEM;
	nodes->number = ida_alloc_max(&numbers, 127, GFP_KERNEL);
	if (nodes->number < 0)
		return nodes->number;
	err = devm_add_action_or_reset(&pdev->dev, remove_nodes, nodes);
	for (i = 0; i < 2 && !err; i++)
		err = add_node(&pdev->dev, nodes, i, driver);
	return err;
}
EXPORT_SYMBOL_GPL(fake_gpus_add_nodes);

/* -- the module ------------------------------------------------------------------------------------------------------ */
static struct resource bus_numbers = { .name = "fake bus", .start = 0, .end = 0xff, .flags = IORESOURCE_BUS };

static int add_bus(void)
{
	LIST_HEAD(resources);

	pci_add_resource(&resources, &bus_numbers);
	pci_lock_rescan_remove();
	bus = pci_create_root_bus(&parent->dev, 0, &config, &sysdata, &resources);
	if (bus) {
		pci_scan_child_bus(bus);
		pci_bus_add_devices(bus);
	} else {
		pci_free_resource_list(&resources);
	}
	pci_unlock_rescan_remove();
	return bus ? 0 : -ENODEV;
}

static int __init fake_gpus_init(void)
{
	int err = fill_all();

	if (err)
		return err;
	drm = class_create(THIS_MODULE, "drm");
	if (IS_ERR(drm))
		return PTR_ERR(drm);
	drm->devnode = node_path;
	err = alloc_chrdev_region(&region, 0, NODES, "drm");
	if (err)
		return err;
	parent = platform_device_register_simple("fake_gpus", PLATFORM_DEVID_NONE, NULL, 0);
	if (IS_ERR(parent))
		return PTR_ERR(parent);
	err = iommu_device_sysfs_add(&iommu, &parent->dev, NULL, "fake_gpus");
	if (!err)
		err = iommu_device_register(&iommu, &iommu_operations, &parent->dev);
	return err ?: add_bus();
}

/* No exit: an IOMMU stays, and with it everything else. The virtual machine lives for one run. */
module_init(fake_gpus_init);
MODULE_DESCRIPTION("GPUs without hardware, for tests");
MODULE_LICENSE("Dual MIT/GPL");
