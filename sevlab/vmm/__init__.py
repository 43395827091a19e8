"""A small QEMU: it opens file descriptors, maps memory and calls ioctls, and can do nothing else.

    vm = vmm.launch(host, firmware=image, policy=1, session=session)
    vm.measurement                                # 48 bytes, for the owner
    vm.inject_secret(header, payload)
    vm.finish()
    vm.run()
    helper = vmm.mirror(vm)                       # a second VM with the same key
    vm = vmm.move(vm, to=process)                 # the same guest, another VMM

`vmm.steps` has the same launch as one function a step, `vmm.ram` the memory that a guest
sees for a while, `vmm.together` runs several VMs turn by turn.
"""

from sevlab.vmm import ram, steps
from sevlab.vmm.launch import launch
from sevlab.vmm.loop import together
from sevlab.vmm.mirror import mirror
from sevlab.vmm.move import move
from sevlab.vmm.vm import Exit, Slot, Vcpu, Vm

__all__ = ["Exit", "Slot", "Vcpu", "Vm", "launch", "mirror", "move", "ram", "steps", "together"]
