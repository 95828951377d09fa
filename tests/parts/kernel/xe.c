// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The driver xe as a PF driver on a Flex 170, with its directory sriov_admin, written from the kernel's description of that
 * interface (sysfs-driver-intel-xe-sriov). The driver divides the memory where nobody gave a quota; all quotas go with the VFs.
 *
 * /sys/module/xe/parameters/fail: an errno (28 for ENOSPC) that the next enabling of VFs fails with, once. With EINTR (4) the
 * process that asked is killed, as if it had been just before it asked, and with it the one in
 * /sys/module/xe/parameters/engine, for which it asks.
 */
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>

#include "fake_gpus.h"

/* What VFs can share of 16 GiB, and how it is rounded: the numbers are ours. */
#define SHARED_VRAM (16ULL * SZ_1G - SZ_256M)
#define ALIGNMENT SZ_2M

static int fail;
module_param(fail, int, 0600);
static int engine;
module_param(engine, int, 0600);

/* As every xe that makes virtual functions has it; here it limits nothing. */
static uint max_vfs;
module_param(max_vfs, uint, 0400);

/* One function's directory "profile"; number 0 is the PF. */
struct profile {
	struct kobject kobj;
	struct pf *pf;
	int number;
	u32 exec_quantum_ms, preempt_timeout_us;
	u64 vram;
};

struct pf {
	struct mutex lock;
	int total;
	bool normal;
	struct kobject *admin, *bulk, **parents;
	struct profile *profiles;
};

static struct profile *of(struct kobject *kobj)
{
	return container_of(kobj, struct profile, kobj);
}

static ssize_t exec_quantum_ms_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", of(kobj)->exec_quantum_ms);
}

static ssize_t exec_quantum_ms_store(struct kobject *kobj, struct kobj_attribute *attr, const char *buf, size_t count)
{
	return kstrtou32(buf, 0, &of(kobj)->exec_quantum_ms) ?: count;
}
static struct kobj_attribute exec_quantum_ms = __ATTR_RW(exec_quantum_ms);

static ssize_t preempt_timeout_us_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", of(kobj)->preempt_timeout_us);
}

static ssize_t preempt_timeout_us_store(struct kobject *kobj, struct kobj_attribute *attr, const char *buf, size_t count)
{
	return kstrtou32(buf, 0, &of(kobj)->preempt_timeout_us) ?: count;
}
static struct kobj_attribute preempt_timeout_us = __ATTR_RW(preempt_timeout_us);

static ssize_t sched_priority_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	struct profile *profile = of(kobj);
	const char *high = profile->number ? "" : " high";

	return sysfs_emit(buf, profile->pf->normal ? "low [normal]%s\n" : "[low] normal%s\n", high);
}
static struct kobj_attribute sched_priority = __ATTR_RO(sched_priority);

static ssize_t vram_quota_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%llu\n", of(kobj)->vram);
}

static u64 given(struct pf *pf, int except)
{
	u64 sum = 0;
	int i;

	for (i = 1; i <= pf->total; i++)
		sum += i == except ? 0 : pf->profiles[i].vram;
	return sum;
}

static ssize_t vram_quota_store(struct kobject *kobj, struct kobj_attribute *attr, const char *buf, size_t count)
{
	struct profile *profile = of(kobj);
	u64 value;
	int err = kstrtou64(buf, 0, &value);

	if (err)
		return err;
	value = ALIGN(value, ALIGNMENT);
	mutex_lock(&profile->pf->lock);
	if (value > SHARED_VRAM || given(profile->pf, profile->number) + value > SHARED_VRAM)
		err = -ENOSPC;
	else
		profile->vram = value;
	mutex_unlock(&profile->pf->lock);
	return err ?: count;
}
static struct kobj_attribute vram_quota = __ATTR_RW(vram_quota);

static struct attribute *profile_attrs[] = {
	&exec_quantum_ms.attr, &preempt_timeout_us.attr, &sched_priority.attr, &vram_quota.attr, NULL,
};

static umode_t profile_visible(struct kobject *kobj, struct attribute *attr, int index)
{
	return attr == &vram_quota.attr && !of(kobj)->number ? 0 : attr->mode;
}
static const struct attribute_group profile_group = { .attrs = profile_attrs, .is_visible = profile_visible };
__ATTRIBUTE_GROUPS(profile);

/* The memory is the PF's, which outlives its directories. */
static void nothing_to_free(struct kobject *kobj)
{
}

static struct kobj_type profile_type = {
	.release = nothing_to_free,
	.sysfs_ops = &kobj_sysfs_ops,
	.default_groups = profile_groups,
};

/* Of the directory .bulk_profile only what sets all functions at once and has no other way. */
static ssize_t bulk_priority_store(struct kobject *kobj, struct kobj_attribute *attr, const char *buf, size_t count)
{
	struct pf *pf = dev_get_drvdata(kobj_to_dev(kobj->parent->parent));

	if (!sysfs_streq(buf, "low") && !sysfs_streq(buf, "normal"))
		return -EINVAL;
	pf->normal = sysfs_streq(buf, "normal");
	return count;
}
static struct kobj_attribute bulk_priority = __ATTR(sched_priority, 0200, NULL, bulk_priority_store);

static int add_profile(struct pf *pf, int number)
{
	struct profile *profile = &pf->profiles[number];
	char name[8];

	snprintf(name, sizeof(name), number ? "vf%d" : "pf", number);
	profile->pf = pf;
	profile->number = number;
	pf->parents[number] = kobject_create_and_add(name, pf->admin);
	if (!pf->parents[number])
		return -ENOMEM;
	return kobject_init_and_add(&profile->kobj, &profile_type, pf->parents[number], "profile");
}

static void remove_admin(void *data)
{
	struct pf *pf = data;
	int i;

	for (i = 0; i <= pf->total; i++) {
		if (pf->profiles[i].kobj.state_initialized)
			kobject_put(&pf->profiles[i].kobj);
		kobject_put(pf->parents[i]);
	}
	kobject_put(pf->bulk);
	kobject_put(pf->admin);
}

static int add_admin(struct pci_dev *pdev, struct pf *pf)
{
	int i, err = devm_add_action_or_reset(&pdev->dev, remove_admin, pf);

	if (err)
		return err;
	pf->admin = kobject_create_and_add("sriov_admin", &pdev->dev.kobj);
	pf->bulk = pf->admin ? kobject_create_and_add(".bulk_profile", pf->admin) : NULL;
	if (!pf->bulk)
		return -ENOMEM;
	err = sysfs_create_file(pf->bulk, &bulk_priority.attr);
	for (i = 0; i <= pf->total && !err; i++)
		err = add_profile(pf, i);
	return err;
}

static void divide(struct pf *pf, int count)
{
	int i;

	if (given(pf, 0))
		return;
	for (i = 1; i <= count; i++)
		pf->profiles[i].vram = ALIGN_DOWN(div_u64(SHARED_VRAM, count), ALIGNMENT);
}

static int configure(struct pci_dev *pdev, int count)
{
	struct pf *pf = pci_get_drvdata(pdev);
	int i, done, refused = count ? xchg(&fail, 0) : 0;

	if (refused == EINTR) {
		struct pid *asks = find_get_pid(xchg(&engine, 0));

		if (asks) {
			kill_pid(asks, SIGKILL, 1);
			put_pid(asks);
		}
		send_sig(SIGKILL, current, 1);
	}
	if (refused)
		return -refused;
	mutex_lock(&pf->lock);
	if (count)
		divide(pf, count);
	done = pci_sriov_configure_simple(pdev, count);
	if (done <= 0)
		for (i = 1; i <= pf->total; i++)
			pf->profiles[i].vram = 0;
	mutex_unlock(&pf->lock);
	return done;
}

static int probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct pf *pf;
	int err = pci_enable_device(pdev) ?: fake_gpus_add_nodes(pdev, THIS_MODULE);

	if (err || pdev->is_virtfn)
		return err;
	pf = devm_kzalloc(&pdev->dev, sizeof(*pf), GFP_KERNEL);
	if (!pf)
		return -ENOMEM;
	mutex_init(&pf->lock);
	pf->total = pci_sriov_get_totalvfs(pdev);
	pf->profiles = devm_kcalloc(&pdev->dev, pf->total + 1, sizeof(*pf->profiles), GFP_KERNEL);
	pf->parents = devm_kcalloc(&pdev->dev, pf->total + 1, sizeof(*pf->parents), GFP_KERNEL);
	if (!pf->profiles || !pf->parents)
		return -ENOMEM;
	pci_set_drvdata(pdev, pf);
	return add_admin(pdev, pf);
}

static void remove(struct pci_dev *pdev)
{
	if (!pdev->is_virtfn)
		pci_disable_sriov(pdev);
	pci_disable_device(pdev);
}

static const struct pci_device_id ids[] = { { PCI_DEVICE(0x8086, 0x56c0) }, {} };
MODULE_DEVICE_TABLE(pci, ids);

static struct pci_driver xe_driver = {
	.name = "xe",
	.id_table = ids,
	.probe = probe,
	.remove = remove,
	.sriov_configure = configure,
};

module_pci_driver(xe_driver);
MODULE_LICENSE("Dual MIT/GPL");
