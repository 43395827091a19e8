"""KVM's numbers and structures, against each other and against the kernel's own header files."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import judges
import pytest

from sevlab.abi import kvm, kvm_vcpu, sev_dev
from sevlab.abi.kvm import errno_name, ioctl_name
from sevlab.wire import Wire

# The structure whose size an ioctl's number carries (kvm.md A2).
CARRIES = {
    "KVM_GET_DIRTY_LOG": "kvm_dirty_log", "KVM_SET_USER_MEMORY_REGION": "kvm_userspace_memory_region",
    "KVM_SET_USER_MEMORY_REGION2": "kvm_userspace_memory_region2", "KVM_ENABLE_CAP": "kvm_enable_cap",
    "KVM_MEMORY_ENCRYPT_REG_REGION": "kvm_enc_region", "KVM_MEMORY_ENCRYPT_UNREG_REGION": "kvm_enc_region",
    "KVM_SET_MEMORY_ATTRIBUTES": "kvm_memory_attributes", "KVM_CREATE_GUEST_MEMFD": "kvm_create_guest_memfd",
    "KVM_SET_DEVICE_ATTR": "kvm_device_attr", "KVM_GET_DEVICE_ATTR": "kvm_device_attr", "KVM_HAS_DEVICE_ATTR": "kvm_device_attr",
    "KVM_GET_REGS": "kvm_regs", "KVM_SET_REGS": "kvm_regs", "KVM_GET_SREGS": "kvm_sregs", "KVM_SET_SREGS": "kvm_sregs",
    "KVM_TRANSLATE": "kvm_translation", "KVM_INTERRUPT": "kvm_interrupt", "KVM_GET_MSRS": "kvm_msrs", "KVM_SET_MSRS": "kvm_msrs",
    "KVM_GET_FPU": "kvm_fpu", "KVM_SET_FPU": "kvm_fpu", "KVM_GET_LAPIC": "kvm_lapic_state", "KVM_SET_LAPIC": "kvm_lapic_state",
    "KVM_SET_CPUID2": "kvm_cpuid2", "KVM_GET_SUPPORTED_CPUID": "kvm_cpuid2", "KVM_GET_MP_STATE": "kvm_mp_state",
    "KVM_SET_MP_STATE": "kvm_mp_state", "KVM_SET_GUEST_DEBUG": "kvm_guest_debug", "KVM_GET_VCPU_EVENTS": "kvm_vcpu_events",
    "KVM_SET_VCPU_EVENTS": "kvm_vcpu_events", "KVM_GET_DEBUGREGS": "kvm_debugregs", "KVM_SET_DEBUGREGS": "kvm_debugregs",
    "KVM_GET_XSAVE": "kvm_xsave", "KVM_SET_XSAVE": "kvm_xsave", "KVM_GET_XCRS": "kvm_xcrs", "KVM_SET_XCRS": "kvm_xcrs",
    "KVM_GET_SREGS2": "kvm_sregs2", "KVM_SET_SREGS2": "kvm_sregs2", "SEV_ISSUE_CMD": "sev_issue_cmd",
}  # fmt: skip


@pytest.mark.parametrize("name", CARRIES)
def test_an_ioctls_number_carries_the_size_of_its_structure(name: str) -> None:
    assert getattr(kvm, name) >> 16 & 0x3FFF == getattr(kvm, CARRIES[name]).SIZE


def test_memory_encrypt_op_is_the_odd_one_its_number_says_eight() -> None:
    assert kvm.KVM_MEMORY_ENCRYPT_OP >> 16 & 0x3FFF == 8 != kvm.kvm_sev_cmd.SIZE


def test_no_two_ioctls_share_a_number_and_each_has_a_name() -> None:
    constants = [value for key, value in vars(kvm).items() if key.startswith("KVM_") and isinstance(value, int)]
    numbers = [value for value in constants if value >> 8 & 0xFF == 0xAE]

    assert len(numbers) == len(set(numbers)) == len(kvm.IOCTL_NAMES)
    assert ioctl_name(0xC008AEBA) == "KVM_MEMORY_ENCRYPT_OP" and ioctl_name(0xAEFF) == "0xaeff"


def test_names_of_exits_commands_and_states_are_complete() -> None:
    assert kvm.EXIT_NAMES[0] == "UNKNOWN" and kvm.EXIT_NAMES[1] == "EXCEPTION" and kvm.EXIT_NAMES[32] == "AP_RESET_HOLD"
    assert sorted(kvm.SEV_CMD_NAMES) == [*range(23), 100, 101, 102]
    assert kvm.SEV_CMD_NAMES[20] == "GET_ATTESTATION_REPORT"
    assert sorted(kvm.MP_STATE_NAMES) == list(range(11)) and kvm.MP_STATE_NAMES[9] == "AP_RESET_HOLD"


def test_an_errno_without_a_name_is_its_number() -> None:
    assert (errno_name(22), errno_name(524), errno_name(9999)) == ("EINVAL", "ENOTSUPP", "9999")


def test_one_import_gives_a_notebook_everything() -> None:
    names: dict[str, object] = {}
    exec("from sevlab.abi.kvm import *", names)

    assert {"KVM_CREATE_VM", "kvm_sev_cmd", "KVM_RUN", "kvm_run", "SEV_ISSUE_CMD", "sev_user_data_status", "Status"} <= names.keys()


# ------------------------------------------------------- vector: the kernel's headers

# Our views of kvm_run's union, and how C calls them.
UNION = {f"kvm_run_{name}": name for name in ("io", "mmio", "hypercall", "fail_entry", "internal", "system_event", "memory_fault")}
NOT_IN_6_1 = {
    "kvm_userspace_memory_region2", "kvm_memory_attributes", "kvm_create_guest_memfd", "kvm_sev_init", "kvm_run_memory_fault",
}  # fmt: skip


def structures() -> dict[str, type[Wire]]:
    return {
        name: cls
        for module in (kvm, kvm_vcpu, sev_dev)
        for name, cls in vars(module).items()
        if isinstance(cls, type) and issubclass(cls, Wire) and name.startswith(("kvm_", "sev_")) and name not in NOT_IN_6_1
    }


def c_field(structure: str, field: str) -> str:
    """How C calls a field of ours: an inner structure has a dot where we write an underscore."""
    if structure == "kvm_vcpu_events":
        for inner in ("exception", "interrupt", "nmi", "smi", "triple_fault"):
            if field.startswith(inner + "_") and field not in ("exception_has_payload", "exception_payload"):
                return field.replace(inner + "_", inner + ".", 1)
    return "arch.debugreg" if structure == "kvm_guest_debug" and field == "debugreg" else field


def c_program() -> str:
    """A program that prints name, offset and size of every field, size of every structure, value of every constant."""
    lines = ['printf("KVM_RUN_UNION %zu 0\\n", offsetof(struct kvm_run, io));']
    for name, cls in structures().items():
        inside = UNION.get(name)
        if not inside and name != "kvm_run":
            lines.append(f'printf("{name} 0 %zu\\n", sizeof(struct {name}));')
        for field in cls.LAYOUT:
            if "pad" in field.name or field.name.startswith("reserved"):
                continue
            place = f"struct kvm_run, {inside}.{field.name}" if inside else f"struct {name}, {c_field(name, field.name)}"
            owner, _, member = place.partition(", ")
            base = f" - offsetof(struct kvm_run, {inside})" if inside else ""
            lines.append(f'printf("{name}.{field.name} %zu %zu\\n", offsetof({place}){base}, sizeof((({owner} *)0)->{member}));')
    for key, value in vars(kvm).items():
        if key.startswith(("KVM_", "SEV_", "SNP_")) and isinstance(value, int) and key not in ENUMS_OF_OURS:
            guard = key not in ENUMS
            show = f'printf("{key} %llu 0\\n", (unsigned long long)(unsigned int){key});'
            lines += [f"#ifdef {key}", show, "#endif"] if guard else [show]
    body = "\n".join(lines)
    return (
        "#include <stddef.h>\n#include <stdio.h>\n#include <linux/kvm.h>\n#include <linux/psp-sev.h>\n"
        f"int main(void)\n{{\n{body}\nreturn 0;\n}}\n"
    )


# Constants that the 6.1 headers have as enumerators, which #ifdef does not see.
ENUMS = {f"KVM_SEV_{name}" for number, name in kvm.SEV_CMD_NAMES.items() if number < 22} | {
    "SEV_FACTORY_RESET", "SEV_PLATFORM_STATUS", "SEV_PEK_GEN", "SEV_PEK_CSR", "SEV_PDH_GEN", "SEV_PDH_CERT_EXPORT",
    "SEV_PEK_CERT_IMPORT", "SEV_GET_ID", "SEV_GET_ID2", "SEV_MAX",
}  # fmt: skip
# Names of ours that mean something else, or nothing, to the preprocessor there.
ENUMS_OF_OURS = {"KVM_INTERNAL_ERROR_EMULATION", "KVM_VCPU_MMAP_SIZE", "KVM_RUN_UNION", "SEV_FW_BLOB_MAX_SIZE"}


@pytest.mark.judge
def test_the_kernels_own_header_files_agree_on_every_offset_and_number(tmp_path: Path) -> None:
    """The judge is the system's <linux/kvm.h> and <linux/psp-sev.h> (6.1), through the C compiler."""
    compiler = shutil.which("cc")
    if not compiler or not Path("/usr/include/linux/psp-sev.h").is_file():
        judges.absent("no C compiler, or no Linux header files (Debian: gcc, linux-libc-dev)")
    source = tmp_path / "layout.c"
    source.write_text(c_program())
    subprocess.run([compiler, "-o", str(tmp_path / "layout"), str(source)], check=True, capture_output=True, text=True)
    output = subprocess.run([str(tmp_path / "layout")], check=True, capture_output=True, text=True).stdout
    theirs = {name: (int(first), int(second)) for name, first, second in (line.split() for line in output.splitlines())}

    ours: dict[str, tuple[int, int]] = {}
    for name, cls in structures().items():
        ours[name] = (0, cls.SIZE)
        ours |= {f"{name}.{field.name}": (field.offset, field.size) for field in cls.LAYOUT}
    ours |= {key: (value, 0) for key, value in vars(kvm).items() if isinstance(value, int)}

    assert {name: ours[name] for name in theirs} == theirs
    assert len(theirs) > 350
