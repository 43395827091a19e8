"""Numbers and layouts, and pure functions that build the bytes of a layout.

Nothing in here acts. What the kernel names carries the kernel's name
(`sevlab.abi.kvm`), what the firmware names the firmware's (`sevlab.abi.sev`),
so that a reader who knows either finds everything by searching for it.
"""
