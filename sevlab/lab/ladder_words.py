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
    "is_mirroring_enc_context(kvm)": "the VM is a mirror",
    "is_mirroring_enc_context(kvm), before the lock": "the VM is a mirror",
    "!find_enc_region(kvm, range)": "no such region was registered",
    "kzalloc() failed": "the kernel has no memory for it",
    "WRAP_MAC": "the session was made for another platform, or changed on its way (WRAP_MAC)",
    "POLICY_MAC": "the policy is not the one the owner meant (POLICY_MAC)",
}

# What a rung without words does, by what it calls.
CALLS = (
    (re.compile(r"CMD\.unpack"), "kvm_sev_cmd cannot be read"),
    (re.compile(r"copy_from_user|\.unpack\(caller\.read"), "its structure cannot be read"),
    (re.compile(r"copy_to_user|_copy_back"), "its structure cannot be written back"),
    (re.compile(r"copy_user_blob\(caller, (?:user\.)?dh"), "the certificate is too long, or cannot be read"),
    (re.compile(r"copy_user_blob\(caller, (?:user\.)?session"), "the session is too long, or cannot be read"),
    (re.compile(r"copy_user_blob"), "a buffer is too long, or cannot be read"),
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
        return rung.rule.removeprefix("not ") if rung.rule.startswith("not ") else f"not ({rung.rule})"
    return note
