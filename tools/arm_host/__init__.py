"""An arm64 host with KVM on any machine: emulated by QEMU's TCG, with a clock that counts instructions."""
