// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * A driver amdgpu that has memory to give away and nothing else, for tests in a virtual machine: it takes the ATI card that QEMU
 * has. Its region of the cgroup controller dmem is named as the real driver's, and the memory is only counted. Who opens its
 * render node and writes a number to it is charged so many bytes until he closes it; what he is told above a limit is the
 * kernel's own answer.
 */
#include <linux/cdev.h>
#include <linux/cgroup_dmem.h>
#include <linux/fs.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/version.h>

#define SIZE (256ULL * SZ_1M)

static struct dmem_cgroup_region *region;
static struct class *drm;
static struct cdev node;
static dev_t number;

/* What one write was charged, and in which group. */
struct piece {
	struct list_head list;
	struct dmem_cgroup_pool_state *pool;
	u64 size;
};

struct holder {
	struct mutex lock;
	struct list_head pieces;
};

static int render_open(struct inode *inode, struct file *file)
{
	struct holder *holder = kzalloc(sizeof(*holder), GFP_KERNEL);

	if (!holder)
		return -ENOMEM;
	mutex_init(&holder->lock);
	INIT_LIST_HEAD(&holder->pieces);
	file->private_data = holder;
	return 0;
}

static ssize_t render_write(struct file *file, const char __user *from, size_t count, loff_t *at)
{
	struct holder *holder = file->private_data;
	struct dmem_cgroup_pool_state *limiting = NULL;
	struct piece *piece;
	u64 size;
	int err = kstrtou64_from_user(from, count, 0, &size);

	if (err)
		return err;
	piece = kzalloc(sizeof(*piece), GFP_KERNEL);
	if (!piece)
		return -ENOMEM;
	err = dmem_cgroup_try_charge(region, size, &piece->pool, &limiting);
	if (err) {
		if (limiting)
			dmem_cgroup_pool_state_put(limiting);
		kfree(piece);
		return err;
	}
	piece->size = size;
	mutex_lock(&holder->lock);
	list_add(&piece->list, &holder->pieces);
	mutex_unlock(&holder->lock);
	return count;
}

static int render_release(struct inode *inode, struct file *file)
{
	struct holder *holder = file->private_data;
	struct piece *piece, *next;

	list_for_each_entry_safe(piece, next, &holder->pieces, list) {
		dmem_cgroup_uncharge(piece->pool, piece->size);
		kfree(piece);
	}
	kfree(holder);
	return 0;
}

static const struct file_operations render_operations = {
	.owner = THIS_MODULE,
	.open = render_open,
	.write = render_write,
	.release = render_release,
};

static char *render_path(const struct device *dev, umode_t *mode)
{
	if (mode)
		*mode = 0666;
	return kasprintf(GFP_KERNEL, "dri/%s", dev_name(dev));
}

static int make_node(struct device *parent)
{
	struct device *made;
	int err = cdev_add(&node, number, 1);

	if (err)
		return err;
	made = device_create(drm, parent, number, NULL, "renderD128");
	if (IS_ERR(made)) {
		cdev_del(&node);
		return PTR_ERR(made);
	}
	return 0;
}

static int amdgpu_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	int err;

	if (region)
		return -EBUSY;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 3, 0)
	region = dmem_cgroup_register_region(&(struct dmem_cgroup_init){ .size = SIZE }, "drm/%s/vram", pci_name(pdev));
#else
	region = dmem_cgroup_register_region(SIZE, "drm/%s/vram", pci_name(pdev));
#endif
	err = IS_ERR(region) ? PTR_ERR(region) : region ? make_node(&pdev->dev) : -EOPNOTSUPP;
	if (err) {
		if (!IS_ERR_OR_NULL(region))
			dmem_cgroup_unregister_region(region);
		region = NULL;
	}
	return err;
}

static void amdgpu_remove(struct pci_dev *pdev)
{
	device_destroy(drm, number);
	cdev_del(&node);
	dmem_cgroup_unregister_region(region);
	region = NULL;
}

static const struct pci_device_id cards[] = { { PCI_DEVICE(PCI_VENDOR_ID_ATI, 0x5046) }, {} };
MODULE_DEVICE_TABLE(pci, cards);

static struct pci_driver driver = { .name = "amdgpu", .id_table = cards, .probe = amdgpu_probe, .remove = amdgpu_remove };

static int __init amdgpu_init(void)
{
	int err = alloc_chrdev_region(&number, 0, 1, "drm");

	if (err)
		return err;
	cdev_init(&node, &render_operations);
	node.owner = THIS_MODULE;
	drm = class_create("drm");
	if (IS_ERR(drm)) {
		unregister_chrdev_region(number, 1);
		return PTR_ERR(drm);
	}
	drm->devnode = render_path;
	err = pci_register_driver(&driver);
	if (err) {
		class_destroy(drm);
		unregister_chrdev_region(number, 1);
	}
	return err;
}
module_init(amdgpu_init);

static void __exit amdgpu_exit(void)
{
	pci_unregister_driver(&driver);
	class_destroy(drm);
	unregister_chrdev_region(number, 1);
}
module_exit(amdgpu_exit);

MODULE_DESCRIPTION("Memory of a graphics card that is only counted");
MODULE_LICENSE("Dual MIT/GPL");
