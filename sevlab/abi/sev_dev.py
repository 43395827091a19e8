"""/dev/sev as user space sees it: SEV_ISSUE_CMD, its commands and their packed structures.

Source: kvm.md A3 and A11, firmware.md 1.6, under the kernel's own names.
"""

from __future__ import annotations

from typing import Annotated

from sevlab.wire import Wire, u8, u32, u64

SEV_ISSUE_CMD = 0xC0105300
SEV_FW_BLOB_MAX_SIZE = 0x4000

SEV_FACTORY_RESET = 0
SEV_PLATFORM_STATUS = 1
SEV_PEK_GEN = 2
SEV_PEK_CSR = 3
SEV_PDH_GEN = 4
SEV_PDH_CERT_EXPORT = 5
SEV_PEK_CERT_IMPORT = 6
SEV_GET_ID = 7  # deprecated: always two sockets
SEV_GET_ID2 = 8
SNP_PLATFORM_STATUS = 9
SNP_COMMIT = 10
SNP_SET_CONFIG = 11
SNP_VLEK_LOAD = 12
SEV_MAX = 9  # 6.1: the first number that is no command

SEV_STATUS_FLAGS_OWNED = 0x001
SEV_STATUS_FLAGS_CONFIG_ES = 0x100


class sev_issue_cmd(Wire):
    """SEV_ISSUE_CMD."""

    cmd: u32 = 0                                     # 0x00
    data: u64 = 0                                    # 0x04
    error: u32 = 0                                   # 0x0C


class sev_user_data_status(Wire):
    """SEV_PLATFORM_STATUS: the firmware's twelve bytes, bytes 3 to 6 seen as one word."""

    api_major: u8 = 0                                # 0x00
    api_minor: u8 = 0                                # 0x01
    state: u8 = 0                                    # 0x02
    flags: u32 = 0                                   # 0x03
    build: u8 = 0                                    # 0x07
    guest_count: u32 = 0                             # 0x08


class sev_user_data_pek_csr(Wire):
    """SEV_PEK_CSR."""

    address: u64 = 0                                 # 0x00
    length: u32 = 0                                  # 0x08  in and out


class sev_user_data_pek_cert_import(Wire):
    """SEV_PEK_CERT_IMPORT."""

    pek_cert_address: u64 = 0                        # 0x00
    pek_cert_len: u32 = 0                            # 0x08
    oca_cert_address: u64 = 0                        # 0x0C
    oca_cert_len: u32 = 0                            # 0x14


class sev_user_data_pdh_cert_export(Wire):
    """SEV_PDH_CERT_EXPORT."""

    pdh_cert_address: u64 = 0                        # 0x00
    pdh_cert_len: u32 = 0                            # 0x08  in and out
    cert_chain_address: u64 = 0                      # 0x0C
    cert_chain_len: u32 = 0                          # 0x14  in and out


class sev_user_data_get_id(Wire):
    """SEV_GET_ID."""

    socket1: Annotated[bytes, 64] = b""              # 0x00
    socket2: Annotated[bytes, 64] = b""              # 0x40


class sev_user_data_get_id2(Wire):
    """SEV_GET_ID2."""

    address: u64 = 0                                 # 0x00
    length: u32 = 0                                  # 0x08  in and out
