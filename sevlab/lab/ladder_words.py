"""A rung in plain words: the case in which it refuses. The original's words stand beside it, as its source."""

from __future__ import annotations

import re

from sevlab.kvm.ladder import Rung

# The kernel's own words, as they stand behind a rule -> the same for people who do not read C all day.
WORDS = {
    "!sev_enabled": "this kernel has no SEV",
    "!sev_es_enabled": "it is ES_INIT, and this kernel has no SEV-ES",
    "what the handler did stays done": "kvm_sev_cmd cannot be written back; what was done stays done",
    "!sev_guest(kvm)": "the VM is no SEV guest",
    "!sev_es_guest(kvm)": "the VM is no SEV-ES guest",
    "a mirror, and !is_cmd_allowed_from_mirror()": "the VM is a mirror, which may not do this",
    "default: of the switch": "there is no such command",
    "filep->f_op != &sev_fops": "the descriptor is no /dev/sev",
    "!psp_master": "the machine has no secure processor",
    "psp_dead": "the secure processor hangs",
    "!file_is_kvm(source_kvm_file)": "the descriptor is no VM",
    "sev_lock_two_vms()": "both are one VM, one of them is being moved, or a signal came",
    "sev_guest(kvm) || !sev_guest(source_kvm)": "the destination is an SEV guest already, or the source is none",
    "sev_guest(kvm)": "the destination is an SEV guest already",
    "sev_misc_cg_try_charge(dst_sev)": "the cgroup of the destination is at its limit",
    "sev_misc_cg_try_charge()": "the cgroup of the destination is at its limit",
    "sev_lock_vcpus_for_migration()": "a signal came while waiting for a vCPU",
    "sev_lock_vcpus_for_migration(kvm)": "a signal came while waiting for a vCPU of the destination",
    "sev_lock_vcpus_for_migration(source_kvm)": "a signal came while waiting for a vCPU of the source",
    "sev_lock_for_migration(kvm)": "the destination is being moved already",
    "sev_lock_for_migration(source_kvm)": "the source is being moved already",
    "!sev_guest(source_kvm) || sev_es_guest(source_kvm)": "the source is no SEV guest, or an SEV-ES one",
    "kvm->arch.vm_type != source_kvm->arch.vm_type (6.10)": "the two VMs are not of one type",
    "created_vcpus != online_vcpus (6.1.146)": "a vCPU of the destination is just being made",
    "and the same of the source": "a vCPU of the source is just being made",
    "SEV-ES: src->online_vcpus != dst->online_vcpus": "the two SEV-ES guests have not equally many vCPUs",
    "!guest_state_protected": "a vCPU of the source was not measured yet",
    "kvm->created_vcpus": "the VM has a vCPU already",
    "kvm->created_vcpus: a vCPU is made for one kind of VM": "the VM has a vCPU already, and each is made for one kind of VM",
    "sev->active": "the VM is an SEV guest already",
    "sev->active; EBUSY before 6.10": "the VM is an SEV guest already (EBUSY before 6.10)",
    "whatever sev_asid_new() said: its code is lost here": "no key slot could be had, for whatever reason",
    "is_mirroring_enc_context(kvm)": "the VM is a mirror",
    "is_mirroring_enc_context(kvm), before the lock": "the VM is a mirror",
    "!find_enc_region(kvm, range)": "no such region was registered",
    "kzalloc() failed": "the kernel has no memory for it",
    "!sev_guest(source_kvm)": "the source is no SEV guest",
    "is_mirroring_enc_context(source_kvm)": "the source is a mirror itself",
    "source_kvm == kvm": "source and destination are one VM",
    "dst_kvm == src_kvm": "source and destination are one VM",
    "sev_guest(kvm): from here on four parts of one condition": "the destination is an SEV guest already",
    "kvm->arch.vm_type != KVM_X86_DEFAULT_VM": "the VM was made for SEV by its type, and wants INIT2",
    "!sev->need_init: no SEV type, or done already, or a mirror": "the VM has no SEV type, is an SEV guest already, or a mirror",
    "none of SEV's types": "the VM's type is none of SEV's",
    "data->flags": "a flag is set, and there are none",
    "cap->flags": "a flag is set, and there are none",
    "data->vmsa_features & ~valid_vmsa_features": "a feature of the save area is asked for that this machine has not",
    "data->ghcb_version > GHCB_VERSION_MAX": "a newer GHCB protocol is asked for than this kernel speaks",
    "!es_active && data->ghcb_version": "a GHCB protocol is asked for, and the VM is no SEV-ES guest",
    "default: of the switch in kvm_vm_ioctl_enable_cap()": "this kernel has no such capability",
    "get_num_contig_pages() != n": "the memory is not contiguous in the machine",
    "params.len > SEV_FW_BLOB_MAX_SIZE": "the buffer is longer than the firmware takes",
    "!debug.len || src_uaddr + len < src_uaddr": "the length is zero, or the source wraps around the end of the addresses",
    "!debug.dst_uaddr; nobody asks whether the destination wraps": "there is no destination",
    "mutex_lock_killable(&vcpu->mutex)": "a signal came while it waited for a vCPU",
    "vcpu->guest_debug || svm->vmcb->save.dr7 & ~DR7_FIXED_1": "somebody debugs a vCPU, or has set a breakpoint",
    "ulen == 0 || uaddr + ulen < uaddr": "the range is empty, or wraps around the end of the addresses",
    "npages > INT_MAX": "the range has more pages than the kernel counts",
    "locked > lock_limit && !capable(CAP_IPC_LOCK)": "more would be locked than the process may lock",
    "pin_user_pages_fast() pinned fewer pages": "not every page of the range is there",
    "id >= KVM_MAX_VCPU_IDS": "the vCPU's number is too large",
    "kvm->created_vcpus >= kvm->max_vcpus": "the VM has as many vCPUs as it may have",
    "kvm_get_vcpu_by_id()": "the VM has a vCPU of this number",
    "!kvm_is_vm_type_supported(type)": "this kernel knows no such type of VM",
    "irqchip_in_kernel(kvm)": "the VM has an interrupt controller already",
    "kvm_run->immediate_exit": "the VMM asked to come back at once",
    "r = -EINVAL; if (arg) goto out": "an argument was given, and there is none",
    "sev->need_init: of an SEV type, but no INIT2 yet (svm_vcpu_pre_run)": "the VM has an SEV type, but INIT2 was not called yet",
    "vcpu->arch.guest_state_protected": "the vCPU's registers are encrypted",
    # the firmware's
    "nor by its algorithm": "it is no Diffie-Hellman key by its algorithm",
    "guests that share a key have one policy": "the guest whose key it shares has another policy",
    "both sides of a packet are equally long": "the two sides of the packet are not equally long",
    "nothing": "there is nothing in it",
}

# What a rung without words does, by what it calls.
CALLS = (
    (re.compile(r"asids\.take"), "no key slot could be had: none of this kind, none free, or the cgroup is at its limit"),
    (re.compile(r"Vcpu\(vm, "), "the kernel has no memory for it"),
    (re.compile(r"slots\.set"), "the slot does not fit: askew, empty, or over another one"),
    (re.compile(r"\bcrypt\(piece\)"), "a piece cannot be pinned, or the firmware refuses it"),
    (re.compile(r"CMD\.unpack"), "kvm_sev_cmd cannot be read"),
    (re.compile(r"copy_from_user|\.unpack\(caller\.read"), "its structure cannot be read"),
    (re.compile(r"copy_to_user|_copy_back"), "its structure cannot be written back"),
    (re.compile(r"copy_user_blob\(caller, (?:user\.)?dh"), "the certificate is too long, or cannot be read"),
    (re.compile(r"copy_user_blob\(caller, (?:user\.)?session"), "the session is too long, or cannot be read"),
    (re.compile(r"copy_user_blob"), "a buffer is too long, or cannot be read"),
    (re.compile(r"_bring_up"), "the platform cannot be brought up"),
    (re.compile(r"pin_memory"), "the memory cannot be pinned: the limit is reached, or nothing is there"),
    (re.compile(r"caller\.read"), "what it points at cannot be read"),
    (re.compile(r"caller\.write"), "what it points at cannot be written"),
    (re.compile(r"Lock\("), "a signal came while it waited for a lock"),
)


def plain(rung: Rung) -> str:
    """The case in which this rung refuses."""
    note = "" if rung.note.startswith("type: ignore") else rung.note
    if note in WORDS:
        return WORDS[note]
    if not note:
        for pattern, words in CALLS:
            if pattern.search(rung.rule):
                return words
        if not rung.rule:  # a refusal that no condition stands before
            return "in every other case"
        return rung.rule.removeprefix("not ") if rung.rule.startswith("not ") else f"not ({rung.rule})"
    return note
