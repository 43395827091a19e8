"""Lab `launch`: the machines that its exercises are about, each made from the reader's seed."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

from sevlab import guest, owner, vmm
from sevlab.abi.kvm import KVM_SEV_DBG_DECRYPT, kvm_sev_dbg
from sevlab.abi.session import measure_message
from sevlab.abi.sev import POLICY_NOSEND, Status, status_name
from sevlab.crypto import Stream, hmac256
from sevlab.host import Host
from sevlab.lab.attempt import Refusal, attempt
from sevlab.lab.bus import bus
from sevlab.lab.launches import empty_guest
from sevlab.vmm import steps

PAGE = 4096
WORDS = ("amber", "birch", "copper", "delta", "ember", "fjord", "garnet", "harbor", "indigo", "juniper", "kelp", "lantern")


def _word(stream: Stream, label: str) -> str:
    return WORDS[stream.draw(label, 1)[0] % len(WORDS)]


def _stream(seed: int, id: str) -> Stream:
    """The numbers of one exercise: other than the machine's own."""
    return Stream(seed).fork(f"exercise/{id}")


class DigestCase:
    """A guest under launch: three blocks loaded, not in the order of their addresses.

    `loads` are (name, gpa, bytes) in the order of the commands; `a`, `b`, `c` the blocks by address; `told` says it in words.
    """

    gives: tuple[str, ...] = ("host", "vm", "loads", "a", "b", "c")

    def __init__(self, seed: int) -> None:
        stream = _stream(seed, "launch.digest")
        self.host = Host(seed=seed)
        self.vm = empty_guest(self.host)
        self.a, self.b, self.c = (f"{_word(stream, name)} block of {name} ".encode().ljust(32) * (PAGE // 32) for name in "ABC")
        blocks = [("A", 0x1000, self.a), ("B", 0x2000, self.b), ("C", 0x8000, self.c)]
        orders = list(itertools.permutations(blocks))[1:]
        self.loads = orders[stream.draw("order", 1)[0] % len(orders)]
        for _, gpa, data in self.loads:
            self.vm.write(gpa, data)
            steps.update_data(self.vm, gpa, PAGE)
        self.told = ", then ".join(f"{name} at {gpa:#x}" for name, gpa, _ in self.loads)

    def digest(self) -> bytes:
        """The context's running digest, looked at on a twin, so that the look is nobody's."""
        return bytes(self.host.fork().xray.digest(self.vm.handle))

    def bus_digests(self) -> set[bytes]:
        """What one gets who hashes the ciphertext, in the order of the commands or of the addresses."""
        on_bus = {name: bus(self.host, self.vm, gpa, PAGE) for name, gpa, _ in self.loads}
        orders = ([name for name, _, _ in self.loads], sorted(on_bus))
        return {hashlib.sha256(b"".join(on_bus[name] for name in order)).digest() for order in orders}


class MeasureCase:
    """A launch that was measured, and all that its owner knows: `tik`, `api`, `policy`, `digest`, `nonce`."""

    gives: tuple[str, ...] = ("host", "tik", "api", "policy", "digest", "nonce")
    POLICIES = (0x18000001, 0x17000009, 0x14000003, 0x1600000B, 0x15000021, 0x18000013)

    def __init__(self, seed: int) -> None:
        stream = _stream(seed, "launch.measure")
        self.host = Host(seed=seed)
        self.api = (0, 24, 15)
        self.policy = self.POLICIES[stream.draw("policy", 1)[0] % len(self.POLICIES)]
        session = owner.new_session(self.host.chain()["pdh"], self.policy, seed=stream.draw("owner", 16))
        image = guest.firmware_image()
        measurement = vmm.launch(self.host, firmware=image, policy=self.policy, session=session).measurement
        assert measurement is not None
        self.tik, self.digest = session.tik, hashlib.sha256(image).digest()
        self._measure, self.nonce = measurement[:32], measurement[32:]

    @property
    def measure(self) -> bytes:
        """The platform's 32 bytes."""
        return self._measure

    @property
    def swapped(self) -> bytes:
        """The MAC with nonce and digest in each other's places."""
        fields = measure_message(self.api, self.policy, self.digest, self.nonce)
        return hmac256(self.tik, fields[:8] + self.nonce + self.digest)


class PolicyCase:
    """Two platforms, at API 0.24 and 0.22, and a guest with a sentence in its memory."""

    gives: tuple[str, ...] = ()
    GPA = 0x1000

    def __init__(self, seed: int) -> None:
        stream = _stream(seed, "launch.policy")
        self.seed = seed
        number = int.from_bytes(stream.draw("number", 2), "little") % 10_000
        self.sentence = f"the {_word(stream, 'word')} key is {number:04d}"

    def tried(self, policy: int) -> dict[str, Any]:
        """Each command under this policy, by what the machine answers: the firmware's status, or the errno.

        SEND_START is not modelled (see the coverage page), so its first rule is asked instead: NOSEND.
        """
        with Host(seed=self.seed) as host:
            vm = self._guest(host, policy)
            if isinstance(vm, Refusal):
                return {"start": vm.fw_name or vm.errno_name}
            found = {"start": "SUCCESS", **self._debug(vm)}
            given = vm.status().policy
        found["send"] = (Status.POLICY_FAILURE if given & POLICY_NOSEND else Status.SUCCESS).name
        with Host(seed=self.seed, api=(0, 22, 9)) as host:
            older = self._guest(host, policy)
            found["older"] = (older.fw_name or older.errno_name) if isinstance(older, Refusal) else "SUCCESS"
        return found

    def _guest(self, host: Host, policy: int) -> Any:
        """A guest of this policy with the sentence loaded, or the refusal."""
        session = owner.new_session(host.chain()["pdh"], policy, seed=self.seed)
        vm = steps.create_vm(host.process("owner-s-guest"))
        steps.add_memory(vm, 0, 16 * PAGE)
        refused = attempt(steps.launch_start, vm, policy, session)
        if refused is not None:
            return refused
        vm.write(self.GPA, self.sentence.encode().ljust(PAGE, b"\0"))
        steps.update_data(vm, self.GPA, PAGE)
        return vm

    def _debug(self, vm: Any) -> dict[str, Any]:
        """DBG_DECRYPT of the sentence: the answer, and what it printed."""
        out = vm.process.mmap(PAGE)
        size = len(self.sentence) + 15 & -16
        answer = attempt(vm.sev_op, KVM_SEV_DBG_DECRYPT, kvm_sev_dbg(vm.hva(self.GPA, size), out, size))
        if isinstance(answer, Refusal):
            return {"debug": status_name(answer.fw) if answer.fw else answer.errno_name}
        text = vm.process.read(out, size).rstrip(b"\0").decode("ascii", "replace")
        return {"debug": "SUCCESS", "text": f"“{text}”"}


class ZeroCase:
    """A launch without a session, and the digest of an image that was never loaded anywhere.

    `digest` is that of `image`; `loaded_digest` of what was loaded in truth; `policy` and `api` the launch's.
    """

    gives: tuple[str, ...] = ("host", "image", "digest", "policy", "api", "measurement")
    loaded_name = "the course's firmware"

    def __init__(self, seed: int) -> None:
        stream = _stream(seed, "launch.zero")
        self.host = Host(seed=seed)
        self.policy, self.api = 1, (0, 24, 15)
        self.image = f"{_word(stream, 'image')}-{stream.draw('number', 1)[0]}.fd"
        self.digest = hashlib.sha256(stream.draw("content", PAGE)).digest()
        loaded = guest.firmware_image() + stream.draw("tail", PAGE)
        loaded = loaded[-PAGE:] + loaded[:-PAGE]  # a page of one's own, below the firmware
        self.loaded_digest = hashlib.sha256(loaded).digest()
        self.measurement = vmm.launch(self.host, firmware=loaded, policy=self.policy).measurement
        self._session = owner.new_session(self.host.chain()["pdh"], self.policy, seed=stream.draw("owner", 16))

    def believes(self, blob: bytes, tik: bytes) -> bool:
        """What an owner says who checks with this key."""
        return bool(owner.check_measurement(blob, digest=self.digest, tik=tik, policy=self.policy, api=self.api))

    def truth(self) -> dict[str, bool]:
        """Which of the two owners believes a forgery made with zeros: tried here."""
        nonce = bytes(16)
        forged = owner.expected_measurement(self.digest, tik=bytes(16), policy=self.policy, mnonce=nonce, api=self.api) + nonce
        return {"lazy": self.believes(forged, bytes(16)), "careful": self.believes(forged, self._session.tik)}
